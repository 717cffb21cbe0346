"""What is stored of attestations, `verify` as a command, and the auditor of a running daemon."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog
from click.testing import CliRunner

from indexer.chain.batch import ServedRange
from indexer.chain.log_set import CHANGED, LEFT_OUT, MADE_UP, WRONG_INDEX, LogFault, diff_logs, digest
from indexer.chain.ranges import BlockRange
from indexer.chain.types import Log
from indexer.cli.main import cli
from indexer.db.connection import connection
from indexer.schema import migrate
from indexer.store import attestations, coverage, provenance
from indexer.store.attestations import ANY, PROVEN, Attestation, Grade
from indexer.store.provenance import EndpointFault
from tests.support.anvil.driver import Driver
from tests.support.anvil.node import AnvilNode, free_port
from tests.support.daemon import PROGRAM, Daemon, environment, get, wait_synced
from tests.support.simchain.node import ThreadedNode
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.view import NO_RECEIPTS
from tests.support.waiting import PATIENCE, eventually, until
from tests.system.test_recovery import Stage
from tests.system.truth import assert_equals_truth

Databases = Callable[[], str]
PROVING = ("--grade", "proven", "--attest-rps", "1000")
A, B = "0x" + "aa" * 20, "0x" + "bb" * 20


# -- what is stored


def attested(first: int, last: int, addresses: tuple[str, ...], grade: Grade, last_hash: bytes | None = None) -> Any:
    return Attestation(first, last, addresses, grade, "a test", None, last_hash, 0, b"", ("here",))


@pytest.mark.parametrize("seed", range(3))
async def test_what_holds_is_what_was_attested_and_not_made_void_since(seed: int, fresh_database: Databases) -> None:
    rng, url = random.Random(seed), fresh_database()
    await migrate.upgrade_async(url)
    model: dict[Grade, dict[str, set[int]]] = {g: {A: set(), B: set()} for g in ANY}
    rows: list[tuple[Grade, tuple[str, ...], set[int]]] = []
    async with connection(url) as conn:
        for _ in range(60):
            first = rng.randrange(80)
            blocks = BlockRange(first, first + rng.randrange(20))
            addresses = rng.choice([(A,), (B,), (A, B)])
            if rng.random() < 0.3:
                contracts = await coverage.contract_ids(conn, addresses)
                async with conn.transaction():
                    await attestations.void(conn, [blocks], contracts, "heal")
                for _, of, held in rows:
                    if set(of) & set(addresses):  # such a row says nothing of these blocks any more
                        held -= set(range(blocks.first, blocks.last + 1))
            else:
                grade = rng.choice(ANY)
                await attestations.add(conn, attested(*blocks, addresses, grade))
                rows.append((grade, addresses, set(range(blocks.first, blocks.last + 1))))
            for grades in (PROVEN, ANY):
                model_ = {
                    a: set[int]().union(*(held for g, of, held in rows if g in grades and a in of)) for a in (A, B)
                }
                found = await attestations.load(conn, [A, B], grades)
                assert {
                    a: {n for s in spans for n in range(s.first, s.last + 1)} for a, spans in found.items()
                } == model_
                assert all(x.last + 1 < y.first for spans in found.values() for x, y in pairwise(spans))
                both = model_[A] & model_[B]
                told = attestations.summary(found, 0)
                assert told.blocks == len(both) and all(n in both for n in range(told.up_to + 1))
                assert told.up_to + 1 not in both
        assert model


async def test_an_attestation_ends_with_its_anchor(fresh_database: Databases) -> None:
    url = fresh_database()
    await migrate.upgrade_async(url)
    async with connection(url) as conn:
        await attestations.add(conn, attested(0, 9, (A,), "proven", b"\1" * 32))
        await conn.execute("INSERT INTO indexer.block VALUES (9, $1, NULL, 0)", b"\1" * 32)
        assert await attestations.load(conn, [A], PROVEN) == {A: [BlockRange(0, 9)]}
        await conn.execute("UPDATE indexer.block SET hash = $1", b"\2" * 32)
        assert await attestations.load(conn, [A], PROVEN) == {A: []}


@pytest.mark.parametrize("table", ["attestation", "blame"])
async def test_nothing_of_it_is_ever_changed(table: str, fresh_database: Databases) -> None:
    url = fresh_database()
    await migrate.upgrade_async(url)
    async with connection(url) as conn:
        await attestations.add(conn, attested(0, 9, (A,), "proven"))
        async with conn.transaction():
            await provenance.record_faults(conn, [EndpointFault("here", "served", 5, 1, LEFT_OUT, "there")], 7)
        for statement in (f"UPDATE indexer.{table} SET at = at", f"DELETE FROM indexer.{table}",
                          f"TRUNCATE indexer.{table}"):  # fmt: skip
            with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
                await conn.execute(statement)
        assert await conn.fetchval(f"SELECT count(*) FROM indexer.{table}") == 1
        assert await provenance.fault_counts(conn) == {"here": 1}


async def test_who_served_is_a_row_a_run_and_the_newest_counts(fresh_database: Databases) -> None:
    url = fresh_database()
    await migrate.upgrade_async(url)
    async with connection(url) as conn:
        for block in range(5):
            await provenance.record_served(conn, ServedRange(block, block, "one"), [1, 2])
        await provenance.record_served(conn, ServedRange(5, 9, "two"), [1, 2])
        await provenance.record_served(conn, ServedRange(3, 3, "two"), [1], merge=False)
        await provenance.record_served(conn, ServedRange(10, 12, "two"), [1, 2])
        assert await conn.fetchval("SELECT count(*) FROM indexer.served") == 3
        assert await provenance.serving_endpoints(conn, [1], 3, 3) == [
            ServedRange(3, 3, "one"),
            ServedRange(3, 3, "two"),
        ]
        assert await provenance.serving_endpoints(conn, [2], 3, 5) == [
            ServedRange(3, 4, "one"),
            ServedRange(5, 5, "two"),
        ]
        await provenance.truncate_above(conn, 6)
        assert await provenance.serving_endpoints(conn, [2], 0, 99) == [
            ServedRange(0, 4, "one"),
            ServedRange(5, 6, "two"),
        ]


def test_faults_are_told_from_two_lists_of_logs() -> None:
    def log(block: int, index: int, data: bytes) -> Log:
        return Log(block, index, b"\1" * 20, b"\2" * 32, 0, (), data, b"\3" * 32)

    said = [log(1, 0, b"same"), log(1, 9, b"moved"), log(2, 0, b"other"), log(3, 0, b"none such")]
    true = [log(1, 0, b"same"), log(1, 1, b"moved"), log(2, 0, b"true"), log(4, 2, b"missed")]
    assert diff_logs(said, true) == [
        LogFault(1, 1, WRONG_INDEX), LogFault(2, 0, CHANGED), LogFault(3, 0, MADE_UP), LogFault(4, 2, LEFT_OUT),
    ]  # fmt: skip
    assert diff_logs(true, true) == [] and len({digest(said), digest(true), digest(true[:-1])}) == 3


# -- the command


def filled(stage: Stage) -> None:
    stage.cli("backfill", "--from-block", "0", "--workers", "1")


def invoke(stage: Stage, *arguments: str, code: int = 0, human: bool = False) -> Any:
    """One command in this process: its answer, or with `human` what it says."""
    flags = ["--chain", "devnet"]
    flags += ["--rpc-url", stage.node.url] if arguments[0] != "reorg" else []
    logging = structlog.get_config()
    try:
        done = CliRunner(env={"DATABASE_URL": stage.url, "COLUMNS": "200"}).invoke(
            cli, [*arguments, *flags, *([] if human else ["--json"])], standalone_mode=False
        )
    finally:
        structlog.configure(**logging)  # a command sets it up for its whole process
    ended = getattr(done.exception, "exit_code", 1) if done.exception else done.return_value or 0
    assert ended == code, f"{arguments}: {ended}, {done.output}, {done.exception!r}"
    if human:
        return done.output + str(done.exception or "")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def omit(stage: Stage, node: ThreadedNode, blocks: range, count: int) -> list[int]:
    """Lets the node leave out logs of final blocks; the blocks."""
    logs = [g for g in stage.tree.logs(stage.tip.hash) if int(g["blockNumber"], 16) in blocks]
    chosen = stage.rng.sample(logs, count)
    node.omit = {(bytes.fromhex(g["blockHash"][2:]), int(g["logIndex"], 16)) for g in chosen}
    return sorted(int(g["blockNumber"], 16) for g in chosen)


def test_verify_proves_heals_and_says_what_it_did(fresh_database: Databases) -> None:
    stage = Stage(fresh_database(), 5, blocks=120)
    with stage.node as liar:
        missing = omit(stage, liar, range(10, 90), 4)
        filled(stage)
        plan = invoke(stage, "verify", *PROVING, "--dry-run")
        assert (plan["blocks"], plan["to_block"]) == (101, 100) and 1 <= plan["requests"] < 30 and plan["receipts"] > 50
        slow = ("verify", "--grade", "proven", "--attest-rps", "0.02")
        assert "--yes" in invoke(stage, *slow, code=31, human=True)
        found = invoke(stage, "verify", *PROVING, "--no-heal", code=30)
        assert found["count"] == len(missing) and found["healed"] == [] and found["blocks"] == 0
        done = invoke(stage, "verify", *PROVING)
        assert sorted(b["block"] for b in done["blamed"]) == missing
        assert {b["endpoint"] for b in done["blamed"]} == {liar.url} and done["blocks"] == 101 and not done["left"]
        assert [done["attested"][g]["up_to"] for g in ("proven", "cross-checked")] == [100, 100]
        requests = liar.http_requests
        again = invoke(stage, "verify", *PROVING, "--yes")
        assert (again["blocks"], again["count"]) == (0, 0) and liar.http_requests - requests < 4
        assert invoke(stage, "verify")["blocks"] == 0  # what is proven needs no second endpoint, and there is none
        assert invoke(stage, "verify", "--again", code=32)["exit_code"] == 32
        status = invoke(stage, "status")
        assert status["attested"]["proven"] == {"up_to": 100, "newest": [0, 100], "blocks": 101}
        assert status["blamed"] == {liar.url: 4}
        shown = invoke(stage, "status", human=True)
        assert "up to 100, newest 0 to 100, 101 blocks" in shown and f"{liar.url}: 4" in shown
        entries = invoke(stage, "reorg", "list")["reorgs"]
        assert entries and all("attestation" in e["cause"] for e in entries)
        asyncio.run(stage.equals_oracle(100))


def test_verify_with_a_second_endpoint_and_ctrl_c(fresh_database: Databases) -> None:
    stage = Stage(fresh_database(), 6, blocks=120)
    with stage.node, ThreadedNode(stage.tree, stage.tip.hash, 89346162) as second:
        second.finalized = second.safe = stage.node.finalized
        filled(stage)
        assert "second" in invoke(stage, "verify", code=32)["error"]
        flags = ["--rpc-url", second.url]
        done = invoke(stage, "verify", "--from", "20", "--to", "40", *flags)
        assert (done["blocks"], done["from_block"], done["to_block"]) == (21, 20, 40)
        assert done["attested"]["cross-checked"]["newest"] == [20, 40] and done["attested"]["proven"]["blocks"] == 0
        # Interrupted in the middle of the first piece: nothing half is stored, and the same command goes on.
        over = threading.Event()

        def hold(method: str, params: list[Any]) -> None:
            if method == "eth_getBlockReceipts":
                over.wait(PATIENCE)

        second.on_request = hold
        process = subprocess.Popen(
            [*PROGRAM, "verify", *PROVING, "--chain", "devnet", "--rpc-url", second.url, "--yes"],
            env=environment({"DATABASE_URL": stage.url}), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            until(lambda: second.requests["eth_getBlockReceipts"], "a request for receipts")
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=PATIENCE)[1]
        finally:
            over.set()
            process.kill()
        assert "run the same command again" in said and process.returncode == 130
        second.on_request = None
        done = invoke(stage, "verify", *PROVING, *flags)
        assert done["blocks"] == 101 and done["attested"]["proven"]["up_to"] == 100


def test_verify_tells_what_keeps_its_grade(fresh_database: Databases) -> None:
    stage = Stage(fresh_database(), 7, blocks=60)
    with stage.node as node:
        filled(stage)
        node.missing_methods = NO_RECEIPTS
        done = invoke(stage, "verify", *PROVING, code=34)
        assert done["left"] and {one["why"] for one in done["left"]} == {"no receipts"} and done["count"] == 0
        assert "keeps its grade" in invoke(stage, "verify", *PROVING, human=True, code=34)
        status = invoke(stage, "status")
        assert ("unprovable", f"{node.url}: no receipts") in [(i["kind"], i["subject"]) for i in status["incidents"]]
        node.missing_methods = set()
        assert invoke(stage, "verify", *PROVING)["attested"]["proven"]["up_to"] == 40
        assert "unprovable" not in [i["kind"] for i in invoke(stage, "status")["incidents"]]


def test_commands_that_look_once_need_no_tag_that_fails(fresh_database: Databases) -> None:
    """What was final stays final, so `verify` attests it; nothing is called done that nobody looked at."""
    stage = Stage(fresh_database(), 8, blocks=60)
    with stage.node as node:
        filled(stage)

        def parent_chain_down(method: str, params: list[Any]) -> None:
            if method == "eth_getBlockByNumber" and params[0] in ("safe", "finalized"):
                raise Refusal(-32603, "L1 client: service unavailable")

        node.on_request = parent_chain_down
        status = invoke(stage, "status")
        assert (status["head"], status["finalized"], status["endpoint_error"]) == (60, None, None)
        assert invoke(stage, "verify", *PROVING)["attested"]["proven"]["up_to"] == 40
        stage.url = fresh_database()
        said = invoke(stage, "backfill", "--from-block", "0", human=True, code=11)
        assert "no block is known to be final: the finalized tag fails" in said


# -- the daemon


async def test_the_daemon_of_a_real_node_proves_what_becomes_final_unless_told_not_to(
    tmp_path: Path, fresh_database: Databases
) -> None:
    url, port = fresh_database(), free_port()
    with AnvilNode() as node:
        driver = Driver(node, seed=11)
        driver.install()
        driver.play(60)
        arguments = ["--rpc-url", node.url, "--http-port", str(port)]
        daemon = Daemon([*arguments, "--no-attest"], {"DATABASE_URL": url}, tmp_path / "log")
        await wait_synced(url, *node.head())
        metrics = get(f"http://127.0.0.1:{port}/metrics")[1]
        assert "reya_indexer_attesting 0.0" in metrics and "attested_block{" not in metrics
        assert daemon.terminate()[0] == 0
        daemon = Daemon(arguments, {"DATABASE_URL": url}, tmp_path / "log")
        try:
            driver.play(30)
            await wait_synced(url, *node.head())
            final = await proven(port, 20)
            assert final <= int(node.rpc("eth_getBlockByNumber", "finalized", False)["number"], 16)
            metrics = get(f"http://127.0.0.1:{port}/metrics")[1]
            assert 'reya_indexer_attested_block{grade="cross-checked"}' in metrics
            assert "reya_indexer_attest_requests_total" in metrics
            await assert_equals_truth(url, driver)
        finally:
            assert daemon.terminate()[0] == 0
        conn = await asyncpg.connect(url)
        grades = await conn.fetch("SELECT DISTINCT grade FROM indexer.attestation")
        assert [g[0] for g in grades] == ["proven"]
        assert await conn.fetchval("SELECT count(*) FROM indexer.incident WHERE kind = 'unprovable'") == 0
        await conn.close()


async def proven(port: int, least: int) -> int:
    """Until the metric says that block `least` is proven; the block it says."""

    async def told() -> int | None:
        for line in (await asyncio.to_thread(get, f"http://127.0.0.1:{port}/metrics"))[1].splitlines():
            if line.startswith('reya_indexer_attested_block{grade="proven"}') and float(line.split()[-1]) >= least:
                return int(float(line.split()[-1]))
        return None

    return await eventually(told, f"a proof of block {least}")
