"""The status document of `reya-indexer status`, from the database, and from the endpoints if there are any.

A running daemon serves the same document at /status, with what only the process knows (ops/live_status.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from indexer.chain.finality import FinalityTracker
from indexer.chain.ranges import gaps_in
from indexer.config import Deployment
from indexer.db.catalog import COLUMNS, SCHEMA, schema_and_name, sql_name
from indexer.db.connection import Connection, connection
from indexer.errors import IndexerError
from indexer.rpc.pool import Pool
from indexer.schema import deferred_indexes, revisions
from indexer.store import attestations, head_proofs, incidents, provenance, reorg_journal
from indexer.store.incidents import unproven
from indexer.store.index_state import IndexState, binding, check_binding, load_index_state

EXACT_ROWS = 1_000_000  # Above this the planner's estimate is shown, because count(*) reads the whole table.
LAST_REORGS = 5
MAX_INCIDENTS = 200  # Incidents shown; all of them are counted.
_UNDECODED = "SELECT reason, sum(count) FROM indexer.undecoded GROUP BY 1 ORDER BY 1"


Heads = dict[str, Any]
SlowPart = dict[str, Any]
NO_HEADS: Heads = {"head": None, "safe": None, "finalized": None, "head_time": None, "endpoint_error": None}


async def status(deployment: Deployment, url: str, urls: Sequence[str]) -> dict[str, Any]:
    """Return the status as one JSON-ready object. Unknown block numbers are None.

    Raises ForeignDatabaseError, SchemaNewerError, SchemaOlderError if it is no database of this release.
    """
    heads = await _heads(deployment, urls)
    async with connection(url) as conn:
        await revisions.require_head(conn, url)
        return await build_status(conn, deployment, heads)


async def build_status(
    conn: Connection, deployment: Deployment, heads: Heads, slow: SlowPart | None = None
) -> dict[str, Any]:
    """Return the status from a database whose schema is this program's.

    Args:
        conn: A connection to the database.
        deployment: The deployment; WrongDeploymentError if the database is bound to another one.
        heads: The chain's heads, NO_HEADS if unknown.
        slow: The slow part, if the caller has a fresh one; None: read it now.
    """
    bound = await binding(conn)
    if bound is None:
        return {"chain": deployment.name, "bound": False, **heads}
    check_binding(bound, deployment.name, deployment.chain_id)
    state = await load_index_state(conn, [c.address for c in deployment.contracts])
    stored = await _stored(conn, deployment, state, heads)
    return {
        "chain": deployment.name,
        "bound": True,
        **heads,
        **stored,
        **(await slow_part(conn, deployment) if slow is None else slow),
    }


async def slow_part(conn: Connection, deployment: Deployment) -> SlowPart:
    """Return the slow part of the status: `attested` by grade, and `rows` by table.

    It takes longer the more is stored, so it must not be read every second.
    """
    bound = await binding(conn)
    if bound is None:
        return {}
    return {"attested": await _attested(conn, deployment, bound.origin), "rows": await _rows(conn)}


async def _heads(deployment: Deployment, urls: Sequence[str]) -> Heads:
    if not urls:
        return NO_HEADS
    pool = Pool(urls, deployment.chain_id, max_blocks=deployment.max_blocks)
    try:
        async with asyncio.timeout(10):
            await pool.open()
            heads = await pool.heads()
    except (IndexerError, TimeoutError) as error:
        return NO_HEADS | {"endpoint_error": str(error) or "no answer within 10 seconds"}
    finally:
        await pool.close()
    finality = FinalityTracker(deployment.finality_depth).observe(heads)
    return NO_HEADS | {
        "head": heads.latest.number,
        "safe": None if finality.source == "unknown" else finality.safe,
        "finalized": None if finality.source == "unknown" else finality.finalized,
        "head_time": heads.latest.timestamp,
    }


async def _stored(conn: Connection, deployment: Deployment, state: IndexState, heads: Heads) -> dict[str, Any]:
    origin, checkpoint = state.binding.origin, state.checkpoint
    lag = heads["head"] - checkpoint.number if heads["head"] is not None and checkpoint else None
    seconds = heads["head_time"] - checkpoint.timestamp if heads["head_time"] is not None and checkpoint else None
    lease = await conn.fetchrow(
        "SELECT holder, state, expires_at > clock_timestamp() AS valid FROM indexer.lease WHERE holder IS NOT NULL"
    )
    return {
        "origin": origin,
        "ingested": state.contiguous_end if state.contiguous_end >= origin else None,
        "projected": checkpoint.number if checkpoint else None,
        "projected_hash": "0x" + checkpoint.hash.hex() if checkpoint else None,
        "lag_blocks": None if lag is None else max(0, lag),
        "lag_seconds": None if seconds is None else max(0, seconds),
        "head_proof": await _head_proof(conn, state, heads["head"]),
        "blamed": await provenance.fault_counts(conn),
        "up_to_date_with_config": checkpoint is None
        or (state.digest, state.projected_origin) == (deployment.digest, origin),
        "database": await conn.fetchval(
            "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby: nothing can be written'"
            " WHEN current_setting('transaction_read_only') = 'on' THEN 'read-only: nothing can be written'"
            " ELSE 'writable' END"
        ),
        "epoch": state.epoch,
        "reorgs": await conn.fetchval("SELECT count(*) FROM indexer.reorg_journal"),
        "last_reorgs": await reorg_journal.latest(conn, LAST_REORGS),
        "projector": lease["holder"] if lease and lease["valid"] else None,
        "state": lease["state"] if lease and lease["valid"] else None,
        "coverage": _coverage(deployment, state, heads["head"]),
        "deferred_indexes": await deferred_indexes.pending(conn),
        "unproven": await unproven(conn, deployment.accounting),
        "undecoded_logs": {row[0]: row[1] for row in await conn.fetch(_UNDECODED)},
        "upgrades": await _upgrades(conn, deployment),
        "incidents_open": await incidents.by_kind(conn),
        "incidents": await incidents.open_now(conn, MAX_INCIDENTS),
    }


async def _head_proof(conn: Connection, state: IndexState, head: int | None) -> dict[str, int | None]:
    """Return the newest block proven before it is final, the distance to the head, and how many blocks lack a proof."""
    newest = await head_proofs.newest(conn)
    checkpoint = state.checkpoint.number if state.checkpoint else -1
    return {
        "newest": newest if newest >= 0 else None,
        "lag_blocks": None if head is None or newest < 0 else max(0, head - newest),
        "unproven": await head_proofs.count_unproven(conn, state.floor, checkpoint),
    }


async def _attested(conn: Connection, deployment: Deployment, origin: int) -> dict[str, dict[str, Any]]:
    """Return for each grade the end of the gapless part, the newest attested range, and the number of blocks."""
    summaries = await attestations.summaries(conn, [c.address for c in deployment.contracts], origin)
    return {
        grade: {"up_to": summary.up_to if summary.up_to >= origin else None,
                "newest": summary.newest and list(summary.newest), "blocks": summary.blocks}
        for grade, summary in summaries.items()
    }  # fmt: skip


def _coverage(deployment: Deployment, state: IndexState, head: int | None) -> list[dict[str, Any]]:
    origin = state.binding.origin
    last = head if head is not None else state.tip.number if state.tip else origin - 1
    return [
        {
            "contract": contract.name,
            "address": contract.address,
            "covered": [list(s) for s in state.coverage[contract.address]],
            "gaps": [list(s) for s in gaps_in(state.coverage[contract.address], origin, last)],
        }
        for contract in deployment.contracts
    ]


async def _upgrades(conn: Connection, deployment: Deployment) -> list[dict[str, Any]]:
    names = {c.address: c.name for c in deployment.contracts}
    rows = await conn.fetch("SELECT * FROM indexer.proxy_upgrade ORDER BY block_number DESC, address")
    return [{"contract": names.get(row["address"], row["address"]), **row} for row in rows]


async def _rows(conn: Connection) -> dict[str, dict[str, Any]]:
    """Return {"rows", "estimated"} for each public table."""
    rows: dict[str, dict[str, Any]] = {}
    for name in COLUMNS:
        if schema_and_name(name)[0] == SCHEMA:
            continue
        estimate = await conn.fetchval(
            "SELECT reltuples::bigint FROM pg_class WHERE oid = $1::regclass", sql_name(name)
        )
        if estimate is not None and estimate > EXACT_ROWS:
            rows[name] = {"rows": estimate, "estimated": True}
        else:
            rows[name] = {"rows": await conn.fetchval(f"SELECT count(*) FROM {sql_name(name)}"), "estimated": False}
    return rows
