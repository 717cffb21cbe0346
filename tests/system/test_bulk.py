"""Much to catch up with: ingest workers, one or many, here or on a cluster, and the projection beside them.

Every end is compared with the oracle; coverage, raw logs and blocks with the tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from indexer.chain.finality import FinalBlock
from indexer.chain.ranges import ContractRange
from indexer.ingest import process_pool
from indexer.ingest.worker import WorkerConfig
from indexer.schema.migrate import upgrade_async
from tests.chaos.truth import Truth
from tests.scenarios.harness import ADDRESSES
from tests.support.anvil.node import free_port
from tests.support.daemon import PROGRAM, environment, run
from tests.support.simchain.chain import Tree
from tests.support.simchain.node import ThreadedNode
from tests.support.simchain.world import exchange
from tests.support.waiting import PATIENCE, ended, eventually, guard, until

Databases = Callable[[], str]
BLOCKS = 3_000
CONFIG = Path(__file__).parents[2] / "config" / "devnet.toml"


class Chain:
    """A long chain, all of it final, a node, and a configuration that asks for small ranges."""

    def __init__(self, folder: Path) -> None:
        self.config = str(folder / "devnet.toml")
        text = re.sub(r"max_blocks = \d+", "max_blocks = 100", CONFIG.read_text())
        Path(self.config).write_text(text)
        self.tree = Tree()
        rng = random.Random("bulk")
        self.tip = exchange(self.tree).grow(self.tree.genesis.hash, BLOCKS, rng, 0.4)
        self.node = ThreadedNode(self.tree, self.tip.hash, 89346162)
        self.node.finalized = self.node.safe = self.tip.number

    def command(self, *arguments: str, chain: str = "") -> list[str]:
        return ["backfill", "--chain", chain or self.config, "--rpc-url", self.node.url, *arguments]

    def backfill(self, url: str, *arguments: str, chain: str = "", code: int = 0, **env: str) -> dict[str, Any]:
        done = run(*self.command(*arguments, "--json", chain=chain), env={"DATABASE_URL": url} | env)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return answer

    async def equals_truth(self, url: str) -> None:
        found = await Truth(self.tree, self.tip, 0, ADDRESSES).everything(url)
        assert not found, f"{len(found)} differences:\n" + "\n".join(found[:20])


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    made = Chain(tmp_path_factory.mktemp("config"))
    with made.node:
        yield made


async def commits(url: str) -> list[str]:
    conn = await asyncpg.connect(url)
    kinds = [r["kind"] for r in await conn.fetch("SELECT kind FROM indexer.commit_log ORDER BY seq")]
    await conn.close()
    return kinds


@pytest.mark.parametrize("workers", ["0", "2"])
async def test_a_long_backfill_equals_the_chain_and_again_it_is_a_no_op(
    workers: str, chain: Chain, fresh_database: Databases
) -> None:
    url = fresh_database()
    report = chain.backfill(url, "--from-block", "0", "--workers", workers)
    assert (report["projected"], report["errors"]) == (BLOCKS, {})
    assert report["logs"] == sum(g["address"] in ADDRESSES for g in chain.tree.logs(chain.tip.hash))
    await chain.equals_truth(url)
    assert chain.backfill(url, "--from-block", "0", "--workers", workers)["steps"] == 0


async def test_ranges_in_random_order_end_as_a_fresh_index(chain: Chain, fresh_database: Databases) -> None:
    url, rng = fresh_database(), random.Random(5)
    cuts = sorted(rng.sample(range(1, BLOCKS), 5))
    ranges = list(zip([0, *cuts], [*(c - 1 for c in cuts), BLOCKS], strict=True))
    rng.shuffle(ranges)
    for first, last in ranges:
        workers = str(rng.randint(0, 2))
        chain.backfill(url, "--from-block", str(first), "--to-block", str(last), "--workers", workers)
    chain.backfill(url, "--from-block", "0")  # the origin may have been lowered last
    await chain.equals_truth(url)
    checked = run("check", "--chain", "devnet", "--recompute", env={"DATABASE_URL": url})
    assert checked.returncode == 0 and checked.stdout.startswith(f"clean up to block {BLOCKS:,}"), checked


async def test_a_contract_added_later_is_ingested_alone_and_ends_as_a_fresh_index(
    chain: Chain, fresh_database: Databases, tmp_path: Path
) -> None:
    url, text = fresh_database(), CONFIG.read_text()
    parts = text.split("[[contract]]")
    kept = [p for p in parts if 'name = "core"' not in p]
    path = tmp_path / "devnet.toml"
    path.write_text("[[contract]]".join(kept))
    chain.backfill(url, "--from-block", "0", chain=str(path))
    path.write_text(text)
    added = chain.backfill(url, "--from-block", "0", "--workers", "1", chain=str(path))
    core = next(p for p in parts if 'name = "core"' in p).split('address = "')[1][:42]
    assert added["logs"] == sum(g["address"] == core for g in chain.tree.logs(chain.tip.hash))
    await chain.equals_truth(url)


async def test_ingest_only_leaves_the_projection_to_the_next_who_holds_the_lease(
    chain: Chain, fresh_database: Databases
) -> None:
    url = fresh_database()
    report = chain.backfill(url, "--from-block", "0", "--ingest-only")
    assert report["projected"] is None and report["logs"] and await commits(url) == []
    asked = chain.node.requests["eth_getLogs"]
    assert chain.backfill(url, "--from-block", "0")["projected"] == BLOCKS
    assert chain.node.requests["eth_getLogs"] == asked
    await chain.equals_truth(url)


POINTS = ["work.before_commit=kill@2", "work.committed=kill@2", "project.written=kill@2",
          "project.before_commit=kill@2"]  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
async def test_killed_in_the_middle_the_same_command_goes_on(
    point: str, chain: Chain, fresh_database: Databases
) -> None:
    url = fresh_database()
    # One process, that is killed; slow, so that there are several commits, one a second.
    slow = ("--from-block", "0", "--workers", "0", "--rps", "15")
    chain.backfill(url, *slow, code=-signal.SIGKILL, REYA_INDEXER_FAILPOINTS=point)
    first = chain.backfill(url, "--from-block", "0")
    assert first["rows"] > 0
    await chain.equals_truth(url)


async def indexes(url: str) -> list[tuple[str, str, bool]]:
    conn = await asyncpg.connect(url)
    found = await conn.fetch(
        "SELECT pg_get_indexdef(i.indexrelid) AS definition, pg_get_constraintdef(k.oid) AS key, indisvalid"
        " FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid"
        " WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    await conn.close()
    return [tuple(row) for row in found]


async def test_deferred_indexes_are_built_at_the_end_however_often_it_is_killed(
    chain: Chain, fresh_database: Databases
) -> None:
    url = fresh_database()
    assert run("migrate", env={"DATABASE_URL": url}).returncode == 0
    before = await indexes(url)
    slow = ("--from-block", "0", "--defer-indexes", "--rps", "15")
    chain.backfill(url, *slow, code=-signal.SIGKILL, REYA_INDEXER_FAILPOINTS="project.before_commit=kill@2")
    away = len(before) - len(await indexes(url))
    assert away >= 24
    kill = {"REYA_INDEXER_FAILPOINTS": "index.before_commit=kill@4"}
    chain.backfill(url, "--from-block", "0", "--keep-indexes", code=-signal.SIGKILL, **kill)
    status = json.loads(run("status", "--chain", chain.config, "--json", env={"DATABASE_URL": url}).stdout)
    assert len(status["deferred_indexes"]) == len(before) - len(await indexes(url)) == away - 3
    checked = run("migrate", "--check", env={"DATABASE_URL": url})
    assert checked.returncode != 0 and "deferred until the initial load ends: " in checked.stdout + checked.stderr
    assert chain.backfill(url, "--from-block", "0")["steps"] == 0  # nothing but the indexes was left
    assert await indexes(url) == before
    assert run("migrate", "--check", env={"DATABASE_URL": url}).returncode == 0
    await chain.equals_truth(url)


async def test_a_migration_builds_deferred_indexes_first(chain: Chain, fresh_database: Databases) -> None:
    url = fresh_database()
    assert run("migrate", env={"DATABASE_URL": url}).returncode == 0
    before = await indexes(url)
    slow = ("--from-block", "0", "--defer-indexes", "--rps", "15")
    chain.backfill(url, *slow, code=-signal.SIGKILL, REYA_INDEXER_FAILPOINTS="project.before_commit=kill@2")
    assert len(await indexes(url)) < len(before)
    assert run("migrate", "--downgrade", "0008", "--yes", env={"DATABASE_URL": url}).returncode == 0
    assert run("migrate", env={"DATABASE_URL": url}).returncode == 0
    assert await indexes(url) == before


@contextlib.contextmanager
def started(command: Sequence[str], log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, env=environment(env), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        ended(process, "the end of a killed process")


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def covered(url: str) -> int:
    """Blocks ingested for some contract."""
    with contextlib.suppress(asyncpg.PostgresError):
        conn = await asyncpg.connect(url)
        try:
            found: int | None = await conn.fetchval(
                "SELECT sum(upper(blocks) - lower(blocks)) FROM indexer.coverage WHERE contract_id = 1"
            )
            return found or 0
        finally:
            await conn.close()
    return 0


async def until_covered(url: str, blocks: int, process: subprocess.Popen[bytes], log: Path) -> None:
    async def reached() -> bool:
        assert process.poll() is None, log.read_text()
        return await covered(url) >= blocks

    await eventually(reached, lambda: f"{blocks} blocks: {log.read_text()}")


async def test_a_worker_that_is_killed_costs_its_range_once_more(
    chain: Chain, fresh_database: Databases, tmp_path: Path
) -> None:
    url, log = fresh_database(), tmp_path / "log"
    command = [*PROGRAM, *chain.command("--from-block", "0", "--workers", "1", "--rps", "20", "--json")]
    with started(command, log, DATABASE_URL=url) as process:
        await until_covered(url, 1, process, log)
        os.kill(children(process.pid)[0], signal.SIGKILL)
        assert ended(process, log.read_text) == 0, log.read_text()
    assert "worker_died" in log.read_text()
    await chain.equals_truth(url)


def dead(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_forked_workers_end_when_they_are_not_needed_and_when_their_parent_is_killed() -> None:
    """In a process of its own, because this one has threads."""
    script = (
        "import asyncio, os, signal\n"
        "from indexer.ingest.worker_fork import fork_workers\n"
        "unused, kept = fork_workers(2), fork_workers(2)\n"
        "async def end():\n"
        "    for worker in unused:\n"
        "        await worker.reap_unused()\n"
        "asyncio.run(end())\n"
        "assert [worker.returncode for worker in unused] == [-signal.SIGKILL] * 2\n"
        "print(*(worker.pid for worker in kept), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for pid in map(int, done.stdout.split()):
        until(partial(dead, pid), f"worker {pid} outlives the one who started it")


async def test_a_worker_that_is_stopped_is_found_silent_and_costs_its_range_once_more(
    chain: Chain, fresh_database: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        process_pool, "SILENT_TIMEOUT_S", PATIENCE
    )  # the new one takes its time until it says its first word
    url = fresh_database()
    await upgrade_async(url)
    addresses = tuple(sorted(ADDRESSES))
    # At three requests a second it is far from its end when its first news is read here, however busy the machine is.
    workers = process_pool.WorkerPool(WorkerConfig(url, (chain.node.url,), 89346162, 100, {}, rps=3.0), 1)
    await workers.start()
    told: list[ContractRange] = []

    async def tell(news: Any) -> None:
        told.append(news.contract_range)
        if len(told) == 1:
            os.kill(workers._all[0].pid, signal.SIGSTOP)
            monkeypatch.setattr(process_pool, "SILENT_TIMEOUT_S", 2.0)

    spawned = workers._spawned

    async def patiently() -> Any:
        monkeypatch.setattr(process_pool, "SILENT_TIMEOUT_S", PATIENCE)
        return await spawned()

    monkeypatch.setattr(workers, "_spawned", patiently)
    try:
        async with guard("the end of ingesting"):
            await workers.ingest(ContractRange(0, BLOCKS - 1, addresses), FinalBlock(BLOCKS - 1), tell)
        assert len(workers._all) == 2 and workers._all[0].returncode == -signal.SIGKILL
    finally:
        await workers.close()
    conn = await asyncpg.connect(url)
    covered = await conn.fetch("SELECT DISTINCT lower(blocks), upper(blocks) FROM indexer.coverage")
    assert [tuple(row) for row in covered] == [(0, BLOCKS)]
    await conn.close()


@pytest.mark.parametrize("workers", ["0", "1"])
async def test_ctrl_c_leaves_a_clean_state_and_no_process(
    workers: str, chain: Chain, fresh_database: Databases, tmp_path: Path
) -> None:
    url, log = fresh_database(), tmp_path / "log"
    command = [*PROGRAM, *chain.command("--from-block", "0", "--workers", workers, "--rps", "6")]
    with started(command, log, DATABASE_URL=url) as process:
        await until_covered(url, 1, process, log)
        ours = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        assert ended(process, log.read_text) == 130, log.read_text()
        assert "run the same command again" in log.read_text()
        assert not [pid for pid in ours if Path(f"/proc/{pid}").exists()]
    assert chain.backfill(url, "--from-block", "0")["projected"] == BLOCKS
    await chain.equals_truth(url)


async def test_workers_end_with_the_one_who_started_them(
    chain: Chain, fresh_database: Databases, tmp_path: Path
) -> None:
    url, log = fresh_database(), tmp_path / "log"
    command = [*PROGRAM, *chain.command("--from-block", "0", "--workers", "1", "--rps", "6")]
    with started(command, log, DATABASE_URL=url) as process:
        await until_covered(url, 1, process, log)
        ours = children(process.pid)
        process.kill()
        await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ours), "the end of its workers")
    chain.backfill(url, "--from-block", "0")
    await chain.equals_truth(url)


async def test_a_dask_cluster_ingests_and_loses_one_of_its_workers(
    chain: Chain, fresh_database: Databases, tmp_path: Path
) -> None:
    url, log, port = fresh_database(), tmp_path / "log", free_port()
    dask, address = str(Path(sys.executable).parent / "dask"), f"tcp://127.0.0.1:{port}"
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    worker = [dask, "worker", address, "--nthreads", "1", "--no-nanny", *local]
    with contextlib.ExitStack() as stack:
        stack.enter_context(started([dask, "scheduler", "--port", str(port), *local], tmp_path / "scheduler"))
        workers = [stack.enter_context(started(worker, tmp_path / f"worker{n}")) for n in range(2)]
        flags = ("--engine", "dask", "--scheduler", address, "--workers", "1", "--rps", "20", "--json")
        command = [*PROGRAM, *chain.command("--from-block", "0", *flags)]
        process = stack.enter_context(started(command, log, DATABASE_URL=url))
        await until_covered(url, 1, process, log)
        workers[0].kill()
        assert ended(process, log.read_text) == 0, log.read_text()
    await chain.equals_truth(url)


async def test_a_dry_run_estimates_and_writes_nothing(chain: Chain, fresh_database: Databases) -> None:
    url = fresh_database()
    plan = chain.backfill(url, "--from-block", "0", "--dry-run", "--rps", "50")
    logs = sum(g["address"] in ADDRESSES for g in chain.tree.logs(chain.tip.hash))
    assert (plan["blocks"], plan["to_block"]) == (BLOCKS + 1, BLOCKS)
    assert 0.5 * logs < plan["logs"] < 2 * logs and plan["requests"] >= 2 and plan["bytes"] > 0
    assert plan["seconds"] + 0.1 >= plan["requests"] / 50 and plan["bound_by"]
    conn = await asyncpg.connect(url)
    assert await conn.fetchval("SELECT to_regclass('indexer.coverage')") is None
    await conn.close()


async def test_what_is_not_final_is_left_to_the_daemon_and_said(chain: Chain, fresh_database: Databases) -> None:
    url = fresh_database()
    chain.node.finalized = chain.node.safe = BLOCKS - 100
    try:
        done = run(*chain.command("--from-block", "2500", "--to-block", "latest"), env={"DATABASE_URL": url})
        assert done.returncode == 0 and f"projected up to {BLOCKS - 100}" in done.stdout
        assert f"blocks {BLOCKS - 99} to {BLOCKS} are not final yet" in done.stderr
        done = run(*chain.command("--from-block", str(BLOCKS - 50)), env={"DATABASE_URL": url})
        assert done.returncode == 10 and "reya-indexer run" in done.stderr
    finally:
        chain.node.finalized = chain.node.safe = BLOCKS


async def test_reproject_gives_the_same_rows_whatever_was_done_to_them(chain: Chain, fresh_database: Databases) -> None:
    url = fresh_database()
    chain.backfill(url, "--from-block", "0")
    conn = await asyncpg.connect(url)

    async def reproject(*arguments: str, code: int = 0, **env: str) -> dict[str, Any]:
        asked = chain.node.requests.total()
        flags = ("--chain", "devnet", "--json", *arguments)
        done = await asyncio.to_thread(run, "reproject", *flags, env={"DATABASE_URL": url} | env)
        assert done.returncode == code, done.stderr
        assert chain.node.requests.total() == asked
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return answer

    # --from 900 answers for the keys that an event from block 900 on touches, so only those are spoilt
    spoilt = await conn.execute(
        "UPDATE account_balances SET balance = 0, delta = 1 WHERE (account_id, collateral) IN "
        "(SELECT account_id, collateral FROM account_collateral_balance_entries WHERE block_number >= 900)"
    )
    assert int(spoilt.split()[1]) > 1
    await conn.execute("DELETE FROM margin_accounts_balance_entries WHERE type = 'deposit' AND block_number > 1000")
    done = await reproject("--from", "900", "--event", "Deposited", "--event", "AccountCollateralSharesUpdated")
    assert not done["whole"] and done["events"] and done["rows"]
    await chain.equals_truth(url)

    await conn.execute("UPDATE account_balances SET balance = 0")
    await conn.execute("TRUNCATE token_transfer")
    await reproject(code=-signal.SIGKILL, REYA_INDEXER_FAILPOINTS="project.before_commit=kill@1")
    done = await reproject()
    assert (done["whole"], done["resumed"], done["last"]) == (True, True, BLOCKS)
    await chain.equals_truth(url)
    assert not (await reproject())["resumed"]
    await chain.equals_truth(url)
    refused = run("reproject", "--chain", "devnet", "--event", "Nonsense", env={"DATABASE_URL": url})
    assert refused.returncode == 31 and "PassivePerpMatchOrder" in refused.stderr
    await conn.close()


async def test_trouble_that_was_overcome_is_told_by_class(chain: Chain, fresh_database: Databases) -> None:
    url = fresh_database()
    chain.node.fail_next.extend(["429", "cut", "429"])
    report = chain.backfill(url, "--from-block", "0")
    assert report["errors"] == {"RateLimited": 2, "Transient": 1} and report["projected"] == BLOCKS
    await chain.equals_truth(url)
