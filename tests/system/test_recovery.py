"""plan, recover, verify: what a person does at night, against a daemon, a node and a PostgreSQL."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.daemon import Daemon, index, run, wait_synced
from tests.support.oracle.compare import differences, fetch_database
from tests.support.oracle.recompute import recompute
from tests.support.simchain.chain import Tree
from tests.support.simchain.node import ThreadedNode
from tests.support.simchain.view import Depth
from tests.support.simchain.world import exchange

Databases = Callable[[], str]
CONFIG = Path(__file__).parents[2] / "config" / "devnet.toml"


class Stage:
    """A tree, a node on its head, a database."""

    def __init__(self, url: str, seed: int, blocks: int = 60, finalized: int = 20) -> None:
        self.url, self.rng = url, random.Random(seed)
        self.tree = Tree()
        self.world = exchange(self.tree)
        self.tip = self.world.grow(self.tree.genesis.hash, blocks, self.rng)
        self.node = ThreadedNode(self.tree, self.tip.hash, 89346162)
        self.node.finalized = self.node.safe = Depth(finalized)

    def cli(self, *arguments: str, env: dict[str, str] | None = None, code: int = 0) -> Any:
        """One command with --json; its answer."""
        flags = ("--chain", "devnet", "--rpc-url", self.node.url, "--json")
        done = run(*arguments, *flags, env={"DATABASE_URL": self.url} | (env or {}))
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        lines = done.stdout.splitlines()
        assert len(lines) <= 1
        return json.loads(lines[0]) if lines else None

    def human(self, *arguments: str, code: int | None = None) -> str:
        """What one command says without --json."""
        flags = ("--chain", "devnet", "--rpc-url", self.node.url)
        done = run(*arguments, *flags, env={"DATABASE_URL": self.url, "COLUMNS": "200"})
        assert code is None or done.returncode == code, done.stderr
        return done.stdout + done.stderr

    async def index(self) -> None:
        """A daemon follows the node to its head and ends."""
        await index(
            self.url, self.tip.number, "0x" + self.tip.hash.hex(), "--chain", "devnet", "--rpc-url", self.node.url
        )

    def switch(self, tip: Any) -> None:
        self.tip = tip
        self.node.head = tip.hash

    async def equals_oracle(self, last: int | None = None) -> None:
        """`last`: where the indexed range ends, when not at the tip."""
        logs = [g for g in self.tree.logs(self.tip.hash) if last is None or int(g["blockNumber"], 16) <= last]
        found = differences(recompute(logs, CONFIG), await fetch_database(self.url))
        assert not found, f"{len(found)} differences:\n" + "\n".join(found[:20])
        conn = await asyncpg.connect(self.url)
        raw = await conn.fetch(
            "SELECT block_number, log_index, address, topics, data FROM indexer.raw_log ORDER BY 1, 2"
        )
        await conn.close()
        emitted = [
            (int(g["blockNumber"], 16), int(g["logIndex"], 16), bytes.fromhex(g["address"][2:]),
             b"".join(bytes.fromhex(t[2:]) for t in g["topics"]), bytes.fromhex(g["data"][2:]))
            for g in logs
        ]  # fmt: skip
        assert [tuple(r) for r in raw] == emitted

    @contextmanager
    def daemon(self, log: Path) -> Iterator[Daemon]:
        flags = ["--chain", "devnet", "--rpc-url", self.node.url, "--http-port", "0"]
        daemon = Daemon(flags, {"DATABASE_URL": self.url}, log)
        try:
            yield daemon
        finally:
            assert daemon.terminate()[0] == 0


async def highest_stored(url: str, number: int) -> int:
    """The highest block up to `number` that has a row: blocks without logs have none, so no fork is found there."""
    conn = await asyncpg.connect(url)
    stored = await conn.fetchval("SELECT max(number) FROM indexer.block WHERE number <= $1", number)
    await conn.close()
    return int(stored)


async def execute(url: str, *statements: str) -> None:
    conn = await asyncpg.connect(url)
    for statement in statements:
        assert not (await conn.execute(statement)).endswith(" 0"), statement
    await conn.close()


async def test_a_fork_below_finalized_is_recovered_by_the_confirmed_plan_while_the_daemon_pauses(
    tmp_path: Path, fresh_database: Databases
) -> None:
    stage = Stage(fresh_database(), 1)
    with stage.node, stage.daemon(tmp_path / "log") as daemon:
        await wait_synced(stage.url, stage.tip.number, "0x" + stage.tip.hash.hex())
        old = stage.tip
        stage.switch(stage.world.fork(stage.tip.hash, 45, 47, stage.rng))
        daemon.wait_for("halted")
        await wait_synced(stage.url, old.number, "0x" + old.hash.hex())  # nothing was deleted

        plan = stage.cli("reorg", "plan")
        fork = await highest_stored(stage.url, old.number - 45)
        assert (plan["fork_point"], plan["to_block"], plan["below_finalized"]) == (fork, fork, True)
        assert plan["checkpoint"] == {"before": old.number, "after": stage.tip.number - 2}
        assert plan["tables"]["indexer.raw_log"]["removed"] == sum(
            int(g["blockNumber"], 16) > fork for g in stage.tree.logs(old.hash)
        )
        assert plan["endpoints"][0]["fork_point"] == fork
        assert stage.cli("reorg", "recover", "--confirm", "00" * 32, code=31)["exit_code"] == 31
        dry = stage.cli("reorg", "recover", "--confirm", plan["plan_hash"], "--dry-run")
        assert dry["dry_run"] and dry["tables"] == plan["tables"]
        await wait_synced(stage.url, old.number, "0x" + old.hash.hex())  # nothing was changed

        done = stage.cli("reorg", "recover", "--confirm", plan["plan_hash"])
        assert done["changed"] and done["epoch"] == 1
        daemon.wait_for("lease_left")
        await wait_synced(stage.url, stage.tip.number, "0x" + stage.tip.hash.hex())
        await stage.equals_oracle()
        (entry,) = json.loads(
            run("reorg", "list", "--chain", "devnet", "--json", env={"DATABASE_URL": stage.url}).stdout
        )["reorgs"]
        assert (entry["fork_point"], entry["depth"]) == (fork, old.number - fork) and "recover" in entry["cause"]
        # The same plan again is another plan: the epoch moved.
        assert stage.cli("reorg", "recover", "--confirm", plan["plan_hash"], code=31)
        again = stage.cli("reorg", "plan")
        assert again["nothing_to_do"] and again["tables"] == {}
        assert not stage.cli("reorg", "recover", "--confirm", again["plan_hash"])["changed"]


@pytest.mark.parametrize("kept", [50, 25], ids=["above finalized", "below finalized"])
async def test_blocks_are_read_again_from_a_named_block_and_a_plan_survives_blocks_appended_later(
    kept: int, fresh_database: Databases
) -> None:
    stage = Stage(fresh_database(), 2)
    with stage.node:
        await stage.index()
        plan = stage.cli("reorg", "plan", "--to-block", str(kept))
        assert (plan["fork_point"], plan["to_block"]) == (stage.tip.number, kept)
        assert all(c["difference"] == 0 for t, c in plan["tables"].items() if plan["exact"] and t != "indexer.block")
        assert stage.cli("reorg", "plan", "--to-block", "61", code=31)
        stage.switch(stage.world.grow(stage.tip.hash, 5, stage.rng))
        await stage.index()
        assert stage.cli("reorg", "recover", "--confirm", plan["plan_hash"], code=31)  # --to-block is part of it
        done = stage.cli("reorg", "recover", "--to-block", str(kept), "--confirm", plan["plan_hash"])
        assert done["changed"] and done["projected"] == stage.tip.number
        await stage.equals_oracle()


EDITS = {
    "a log deleted": ["DELETE FROM indexer.raw_log WHERE (block_number, log_index) = (SELECT block_number, log_index"
                      " FROM indexer.raw_log WHERE block_number > 10 ORDER BY 1, 2 LIMIT 1)"],
    "data changed": ["UPDATE indexer.raw_log SET data = data || '\\x00' WHERE block_number = (SELECT min(block_number)"
                     " FROM indexer.raw_log WHERE block_number > 12)"],
    "a hash changed": ["UPDATE indexer.block SET hash = sha256(hash) WHERE number = (SELECT min(block_number)"
                       " FROM indexer.raw_log WHERE block_number > 8)"],
    "a time changed": ["UPDATE indexer.block SET timestamp = timestamp + 1 WHERE number = (SELECT min(block_number)"
                       " FROM indexer.raw_log WHERE block_number > 8)"],
    "a block row deleted": ["DELETE FROM indexer.block WHERE number = (SELECT min(block_number)"
                            " FROM indexer.raw_log WHERE block_number > 8)"],
    "a foreign log": ["INSERT INTO indexer.raw_log SELECT block_number, 9999, address, transaction_hash,"
                      " transaction_index, topics, data FROM indexer.raw_log WHERE block_number > 15 LIMIT 1"],
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=list(EDITS))
async def test_a_hand_edit_is_found_and_healed(edit: str, fresh_database: Databases) -> None:
    stage = Stage(fresh_database(), 3)
    with stage.node:
        await stage.index()
        clean = stage.cli("reorg", "verify")
        assert (clean["count"], clean["to_block"]) == (0, 40) and clean["logs"] > 0
        await execute(stage.url, *EDITS[edit])
        found = stage.cli("reorg", "verify", code=30)
        assert found["count"] >= 1 and found["differences"][0]["what"] and not found["healed"]
        assert stage.cli("reorg", "verify", "--heal")["healed"]
        assert stage.cli("reorg", "verify")["count"] == 0
        await stage.equals_oracle()


async def test_logs_that_a_node_left_out_are_healed_with_every_row_that_depends_on_them(
    fresh_database: Databases,
) -> None:
    stage = Stage(fresh_database(), 4, blocks=120)
    with stage.node:
        logs = [g for g in stage.tree.logs(stage.tip.hash) if int(g["blockNumber"], 16) <= 90]
        for lost in stage.rng.sample(logs, 12):
            stage.node.omit.add((bytes.fromhex(lost["blockHash"][2:]), int(lost["logIndex"], 16)))
        await stage.index()
        stage.node.omit.clear()
        assert stage.cli("reorg", "verify", code=30)["count"] == 12
        assert stage.cli("reorg", "verify", "--heal")["healed"]
        await stage.equals_oracle()
        # What is kept to undo unfinalized blocks was corrected, too.
        stage.switch(stage.world.fork(stage.tip.hash, 15, 18, stage.rng))
        await stage.index()
        await stage.equals_oracle()


HEAL_POINTS = ["heal.moved", "heal.forgotten", "heal.replayed", "heal.before_commit", "heal.committed"]


@pytest.mark.parametrize("point", HEAL_POINTS)
async def test_a_heal_that_is_killed_is_done_whole_or_not_at_all(point: str, fresh_database: Databases) -> None:
    stage = Stage(fresh_database(), 5)
    with stage.node:
        await stage.index()
        before = await fetch_database(stage.url)
        await execute(stage.url, *EDITS["a log deleted"])
        stage.cli("reorg", "verify", "--heal", env={"REYA_INDEXER_FAILPOINTS": f"{point}=kill"}, code=-signal.SIGKILL)
        assert not differences(before, await fetch_database(stage.url))
        left = stage.cli("reorg", "verify", code=0 if point == "heal.committed" else 30)
        assert left["count"] == (0 if point == "heal.committed" else 1)
        stage.cli("reorg", "verify", "--heal")
        await stage.equals_oracle()


async def test_a_range_that_nobody_serves_is_impossible_and_nothing_changes(fresh_database: Databases) -> None:
    stage = Stage(fresh_database(), 6)
    with stage.node:
        await stage.index()
        before = await fetch_database(stage.url)
        stage.node.pruned_below = stage.tip.number + 1
        for mode in ("empty", "error"):
            stage.node.pruned_mode = mode
            answer = stage.cli("reorg", "plan", "--to-block", "30", code=32)
            assert "no endpoint serves blocks 31 to 60" in answer["error"]
        assert not differences(before, await fetch_database(stage.url))
        stage.node.pruned_below = 0
        assert stage.cli("reorg", "plan", "--to-block", "30")["to_block"] == 30
