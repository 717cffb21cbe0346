"""A database against the tree: tables by the oracle, raw logs byte by byte, and what the indexer keeps of itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from functools import reduce
from pathlib import Path
from typing import Any

import asyncpg

from indexer.check import recompute
from indexer.config import Deployment
from indexer.db import connection
from indexer.projector.writer import Writer
from indexer.store.index_state import load_index_state
from tests.support.oracle.base import TABLES, Row
from tests.support.oracle.compare import LEVELS, differences, fetch_database, fetch_level
from tests.support.oracle.recompute import recompute as recomputed
from tests.support.simchain.chain import Block, Tree

CONFIG = Path(__file__).parents[2] / "config" / "devnet.toml"
ARCHIVED = {*TABLES, "indexer.raw_log", "indexer.block"}
_AT = [f" ({suffix})" for suffix in LEVELS]  # ends of differences at a finality level


class Truth:
    """What block `tip` and its ancestors from block `origin` on say, for the contracts `addresses`. `rows`: how many
    were compared so far."""

    def __init__(self, tree: Tree, tip: Block, origin: int, addresses: Collection[str]) -> None:
        self.tree, self.tip, self.origin, self.addresses = tree, tip, origin, addresses
        self.logs = [g for g in tree.logs(tip.hash, origin) if g["address"] in addresses]
        self.rows = 0

    async def tables(self, url: str) -> list[str]:
        """Differences of the public tables; empty when they are the projection of this chain."""
        return self._differences(recomputed(self.logs, CONFIG), await fetch_database(url))

    async def everything(self, url: str) -> list[str]:
        """Differences of a database at rest, whose tip this is."""
        found = await self.tables(url)
        for suffix in LEVELS:
            last, rows = await fetch_level(url, suffix)
            there = recomputed([g for g in self.logs if int(g["blockNumber"], 16) <= last], CONFIG)
            there = {table: there[table] for table in rows if table in there}
            found += [f"{line} ({suffix})" for line in self._differences(there, rows)]
        conn = await asyncpg.connect(url)
        try:
            async with conn.transaction(isolation="repeatable_read", readonly=True):
                found += await self._raw(conn)
                found += await self._blocks(conn)
                found += await self._standing(conn)
                found += await _journal(conn) + await _commit_log(conn)
        finally:
            await conn.close()
        return found

    def _differences(self, expected: dict[str, list[Row]], actual: dict[str, list[Row]]) -> list[str]:
        self.rows += sum(map(len, expected.values()))
        return differences(expected, actual)

    async def _raw(self, conn: Any) -> list[str]:
        stored = await conn.fetch(
            "SELECT r.block_number, r.log_index, r.address, r.topics, r.data, r.transaction_hash, r.transaction_index,"
            " b.hash, b.timestamp FROM indexer.raw_log r LEFT JOIN indexer.block b ON b.number = r.block_number"
        )
        have, want = Counter(tuple(r) for r in stored), Counter(_row(g) for g in self.logs)
        self.rows += len(self.logs)
        return [
            *(f"raw_log {place[:2]}: missing" for place in want - have),
            *(f"raw_log {place[:2]}: not on the chain" for place in have - want),
        ]

    async def _blocks(self, conn: Any) -> list[str]:
        path = self.tree.path(self.tip.hash)
        stored = await conn.fetch("SELECT number, hash, parent_hash, timestamp FROM indexer.block")
        self.rows += len(stored)
        found = []
        for number, hash_, parent, time in stored:
            block = path[number] if number < len(path) else None
            if block is None or (hash_, time) != (block.hash, block.timestamp) or parent not in (None, block.parent):
                found.append(f"block {number}: not on the chain")
        return found

    async def _standing(self, conn: Any) -> list[str]:
        found = []
        checkpoint = await conn.fetchrow("SELECT number, hash, rollback_floor FROM indexer.checkpoint")
        if checkpoint is None or (checkpoint["number"], checkpoint["hash"]) != (self.tip.number, self.tip.hash):
            found.append(f"checkpoint {checkpoint and checkpoint['number']}: should be {self.tip.number}")
        covered = await conn.fetch(
            "SELECT '0x' || encode(c.address, 'hex'), range_agg(v.blocks)::text FROM indexer.coverage v"
            " JOIN indexer.contract c ON c.id = v.contract_id GROUP BY 1"
        )
        whole = "{" + f"[{self.origin},{self.tip.number + 1})" + "}"
        if sorted(map(tuple, covered)) != sorted((a, whole) for a in self.addresses):
            found.append(f"coverage {sorted(map(tuple, covered))}: should be {whole} each")
        images = await conn.fetchval(
            "SELECT count(*) FROM indexer.before_image, indexer.checkpoint"
            " WHERE block_number <= rollback_floor OR block_number > number"
        )
        return found + ([f"{images} before-images that nothing can use"] if images else [])


async def _journal(conn: Any) -> list[str]:
    """The sums of the journal against the archived rows; journal, commit log and epoch against each other."""
    entries = await conn.fetch("SELECT id, epoch, rows_removed, depth FROM indexer.reorg_journal ORDER BY epoch")
    archived: dict[int, dict[str, int]] = {e["id"]: {} for e in entries}
    for row in await conn.fetch(
        "SELECT reorg_id, table_name, count(*) AS rows FROM (SELECT reorg_id, table_name FROM indexer.orphaned_row"
        " UNION ALL SELECT reorg_id, 'indexer.raw_log' FROM indexer.orphaned_log) kept GROUP BY 1, 2 ORDER BY 1, 2"
    ):
        archived.setdefault(row["reorg_id"], {})[row["table_name"]] = row["rows"]
    found = []
    for entry in entries:
        removed = {t: n for t, n in json.loads(entry["rows_removed"]).items() if t in ARCHIVED}
        if removed != archived[entry["id"]]:
            found.append(f"reorg {entry['id']}: the journal says {removed}, archived are {archived[entry['id']]}")
    if set(archived) != {e["id"] for e in entries}:
        found.append("rows are archived for a reorg that the journal does not know")
    epoch = await conn.fetchval("SELECT value FROM indexer.epoch")
    numbers = [e["epoch"] for e in entries]
    if numbers != sorted(set(numbers)) or (numbers and not 0 < numbers[-1] <= epoch):
        found.append(f"epoch {epoch}, but the journal has {numbers}")
    taken = await conn.fetchval("SELECT count(*) FROM indexer.commit_log WHERE kind IN ('rollback', 'heal')")
    if taken != epoch:
        found.append(f"epoch {epoch}, but the commit log has {taken} changes of the past")
    rollbacks = await conn.fetchval("SELECT count(*) FROM indexer.commit_log WHERE kind = 'rollback'")
    if rollbacks != len(entries):
        found.append(f"{len(entries)} reorgs in the journal, {rollbacks} in the commit log")
    return found


async def _commit_log(conn: Any) -> list[str]:
    """What docs/reference/commit-log.md promises of the ranges: followed in order, they end at the checkpoint."""
    rows = await conn.fetch("SELECT seq, epoch, kind, from_block, to_block FROM indexer.commit_log ORDER BY seq")
    found: list[str] = []
    at: int | None = None  # the block after the last one that is projected
    epoch, void = 0, False
    for seq, its_epoch, kind, first, last in rows:
        epoch += kind in ("rollback", "heal")
        if its_epoch != epoch:
            found.append(f"commit log {seq}: epoch {its_epoch}, should be {epoch}")
        if kind == "forward":
            # After a reset it begins at the origin, which may have been lowered since.
            if at is not None and (first > at if void else first != at):
                found.append(f"commit log {seq}: forward from {first}, should be {at}")
            at, void = last + 1, False
        elif at is not None:
            at = min(at, first) if kind == "rollback" else first if kind == "reproject" else at
            void = void or kind == "reproject"
    number = await conn.fetchval("SELECT number FROM indexer.checkpoint")
    if number is not None and number + 1 != at:
        found.append(f"the commit log ends before block {at}, the checkpoint is {number}")
    return found


async def checked(url: str, deployment: Deployment, *, strict: bool = False) -> list[str]:
    """What `reya-indexer check --recompute` finds; `strict`: also where the chain contradicts itself."""
    async with connection.connection(url) as conn:
        state = await load_index_state(conn, [c.address for c in deployment.contracts])
        drifts = await recompute.find_violations(conn, lambda name: None)
        writer = Writer(deployment)
        followed, moved = await recompute.reconcile_positions(conn, writer, state, lambda block: None)
        _, wrong = await recompute.recompute(conn, writer, state, lambda block: None)
    told = followed.contradictions if strict else []
    return [f"check: {drift}" for drift in (*drifts, *moved, *wrong, *told)]


async def reorgs(url: str) -> tuple[int, int]:
    """How many the journal has, and how deep the deepest was."""
    conn = await asyncpg.connect(url)
    try:
        return (
            await conn.fetchval("SELECT count(*) FROM indexer.reorg_journal"),
            await conn.fetchval("SELECT coalesce(max(depth), 0) FROM indexer.reorg_journal"),
        )
    finally:
        await conn.close()


def _row(log: dict[str, Any]) -> tuple[Any, ...]:
    return (
        int(log["blockNumber"], 16),
        int(log["logIndex"], 16),
        bytes.fromhex(log["address"][2:]),
        b"".join(bytes.fromhex(t[2:]) for t in log["topics"]),
        bytes.fromhex(log["data"][2:]),
        bytes.fromhex(log["transactionHash"][2:]),
        int(log["transactionIndex"], 16),
        bytes.fromhex(log["blockHash"][2:]),
        int(log["blockTimestamp"], 16),
    )


def wrong_rows(found: Collection[str]) -> dict[str, int]:
    """How many of the differences are rows that are not there, rows that are there more than once, and others, which
    nothing on the chain explains."""
    lines = [reduce(str.removesuffix, _AT, line) for line in found]
    lost = sum(line.endswith(": missing") for line in lines)
    doubled = sum(line.endswith(" times") for line in lines)
    return {"lost": lost, "doubled": doubled, "unexplained": len(lines) - lost - doubled}
