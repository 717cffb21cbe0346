"""`status`: where a database stands, from the database, and from the endpoints when there are any."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from indexer.chain.finality import Finality
from indexer.config import Deployment
from indexer.errors import IndexerError, SchemaOlder
from indexer.ingest.planner import missing
from indexer.rpc.pool import Pool
from indexer.store import attestations, blame, deferred, schema
from indexer.store.database import Connection, connection
from indexer.store.facts import COLUMNS, SCHEMA, schema_and_name, sql_name
from indexer.store.standing import Standing, binding, check_binding, load
from indexer.store.unproven import unproven

EXACT_ROWS = 1_000_000  # above it the planner's estimate is shown, because count(*) reads the table


async def status(deployment: Deployment, url: str, urls: Sequence[str]) -> dict[str, Any]:
    """One JSON-ready object. Block numbers are None where nothing is known."""
    heads = await _heads(deployment, urls)
    addresses = [c.address for c in deployment.contracts]
    async with connection(url) as conn:
        if await schema.classify(conn) != "ours":
            raise SchemaOlder("this database holds no index yet", "Start `reya-indexer run` or `backfill` first")
        bound = await binding(conn)
        if bound is None:
            return {"chain": deployment.name, "bound": False, **heads}
        check_binding(bound, deployment.name, deployment.chain_id)
        standing = await load(conn, addresses)
        return {"chain": deployment.name, "bound": True, **heads} | await _stored(conn, deployment, standing, heads)


async def _heads(deployment: Deployment, urls: Sequence[str]) -> dict[str, Any]:
    unknown: dict[str, Any] = {"head": None, "safe": None, "finalized": None, "head_time": None, "endpoint_error": None}
    if not urls:
        return unknown
    pool = Pool(urls, deployment.chain_id, max_blocks=deployment.max_blocks)
    try:
        async with asyncio.timeout(10):
            await pool.open()
            heads = await pool.run(lambda reader: reader.heads())
    except (IndexerError, TimeoutError) as error:
        return unknown | {"endpoint_error": str(error) or "no answer within 10 seconds"}
    finally:
        await pool.close()
    verdict = Finality(deployment.finality_depth).observe(heads)
    return unknown | {
        "head": heads.latest.number,
        "safe": verdict.safe,
        "finalized": verdict.finalized,
        "head_time": heads.latest.timestamp,
    }


async def _stored(
    conn: Connection, deployment: Deployment, standing: Standing, heads: dict[str, Any]
) -> dict[str, Any]:
    origin, checkpoint = standing.binding.origin, standing.checkpoint
    goal = heads["head"] if heads["head"] is not None else standing.tip.number if standing.tip else origin - 1
    coverage = []
    for contract in deployment.contracts:
        spans = standing.coverage[contract.address]
        coverage.append(
            {
                "contract": contract.name,
                "address": contract.address,
                "covered": [list(s) for s in spans],
                "gaps": [list(s) for s in missing(spans, origin, goal)],
            }
        )
    lag = heads["head"] - checkpoint.number if heads["head"] is not None and checkpoint else None
    seconds = heads["head_time"] - checkpoint.timestamp if heads["head_time"] is not None and checkpoint else None
    lease = await conn.fetchrow(
        "SELECT holder, state, expires_at > clock_timestamp() AS valid FROM indexer.lease WHERE holder IS NOT NULL"
    )
    return {
        "origin": origin,
        "ingested": standing.front if standing.front >= origin else None,
        "projected": checkpoint.number if checkpoint else None,
        "attested": await _attested(conn, deployment, origin),
        "projected_hash": "0x" + checkpoint.hash.hex() if checkpoint else None,
        "lag_blocks": None if lag is None else max(0, lag),
        "lag_seconds": None if seconds is None else max(0, seconds),
        "blamed": await blame.counts(conn),
        "up_to_date_with_config": checkpoint is None
        or (standing.digest, standing.projected_origin) == (deployment.digest, origin),
        "database": await conn.fetchval(
            "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby: nothing can be written'"
            " WHEN current_setting('transaction_read_only') = 'on' THEN 'read-only: nothing can be written'"
            " ELSE 'writable' END"
        ),
        "epoch": standing.epoch,
        "reorgs": await conn.fetchval("SELECT count(*) FROM indexer.reorg_journal"),
        "projector": lease["holder"] if lease and lease["valid"] else None,
        "state": lease["state"] if lease and lease["valid"] else None,
        "coverage": coverage,
        "deferred_indexes": await deferred.pending(conn),
        "rows": await _rows(conn),
        "unproven": await unproven(conn, deployment.accounting),
        "incidents": [
            {"kind": r[0], "subject": r[1], "detail": r[2], "count": r[3], "first_block": r[4], "last_block": r[5]}
            for r in await conn.fetch(
                "SELECT kind, subject, detail, count, first_block, last_block FROM indexer.incident"
                " WHERE resolved_at IS NULL ORDER BY opened_at"
            )
        ],
    }


async def _attested(conn: Connection, deployment: Deployment, origin: int) -> dict[str, dict[str, Any]]:
    """By grade: without a gap up to which block, the newest attested range, and how many blocks."""
    found = await attestations.summaries(conn, [c.address for c in deployment.contracts], origin)
    return {
        grade: {"up_to": of.up_to if of.up_to >= origin else None, "newest": of.newest and list(of.newest),
                "blocks": of.blocks}
        for grade, of in found.items()
    }  # fmt: skip


async def _rows(conn: Connection) -> dict[str, dict[str, Any]]:
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
