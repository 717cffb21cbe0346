"""`check`: the identities, positions against the events that move them, and rows compared with their projection from
the stored raw logs, in one snapshot.

The whole recomputation starts with empty tables at the origin and keeps every state row in memory; a sample has no
state, so that it compares the columns that need none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

from indexer.check.invariants import IDENTITIES, MOST, UNFIT
from indexer.check.position_replay import Finding, Reconciliation
from indexer.db.catalog import COLUMNS, KEYS, kind, sql_name
from indexer.db.connection import Connection
from indexer.projections.events import EXECUTIONS, Row, StateKey, events_of, transactions
from indexer.projections.project import project, rows_of, state_keys, tables_of
from indexer.projections.write_set import Kept, Ledger
from indexer.projector.rows import columns_of, row_of
from indexer.projector.writer import Writer
from indexer.store import raw_logs
from indexer.store.index_state import Standing

CHUNK = 20_000  # logs

# Columns of appended rows that follow from state rows, which a sample does not have.
STATEFUL = {
    "order_history": {"type", "processed", "r_pnl", "price_variation_pnl", "funding_pnl", "average_entry_price"},
    "orders": {"liquidation_type", "position_session"},
    "liquidation_history_details": {"owner_address"},
    "rebate_fee_history": {"referee_wallet_address"},
}
# The events that positions follow from.
MOVING = EXECUTIONS | {"PositionDataUpdated", "MarketDataUpdated", "AccountExecutedLiquidationBid"}
# State tables with a row per block: compared and let go chunk by chunk.
BY_BLOCK = ("pool_price_history",)


async def identities(conn: Connection, tell: Callable[[str], None]) -> list[Finding]:
    """Rows for which an identity does not hold, at most MOST of each."""
    found = []
    for name, query in IDENTITIES.items():
        tell(name)
        rows = await conn.fetch(f"SELECT subject, detail FROM ({query}) drifts ORDER BY subject LIMIT {MOST}")
        found += [Finding(name, row["subject"], row["detail"]) for row in rows]
    return found


async def positions(
    conn: Connection, writer: Writer, standing: Standing, tell: Callable[[int], None]
) -> tuple[Reconciliation, list[Finding]]:
    """Every position and execution against the stored events, from the origin on."""
    topics = {e.topic0 for c in writer.deployment.contracts for e in c.events if e.name in MOVING}
    unfit = await conn.fetch(UNFIT)
    followed = Reconciliation(frozenset(row[0] for row in unfit))
    async for chunk in _chunks(conn, standing):
        moving = [log for log in chunk.logs if log.topics and log.topics[0] in topics]
        rows = await conn.fetch(
            "SELECT unique_id, r_pnl FROM public.order_history"
            " WHERE unique_id BETWEEN $1::bigint * 100000 AND $2::bigint * 100000 + 99999",
            chunk.first,
            chunk.last,
        )
        pnl: dict[int, int | None] = {row["unique_id"]: row["r_pnl"] for row in rows}
        for tx in transactions(events_of(writer.registry, moving, chunk.times)):
            followed.add(tx, pnl)
        followed.rows_without_execution(pnl)
        tell(chunk.last)
    stored = [dict(row) for row in await conn.fetch("SELECT * FROM public.positions")]
    found = followed.drifts + followed.compare(stored) + followed.open_interest(stored)
    return followed, found


async def sample(conn: Connection, writer: Writer, standing: Standing, blocks: int) -> tuple[int, list[Finding]]:
    """Appended rows of so many random blocks with logs against their projection; how many rows were compared."""
    picked = await conn.fetch(
        "SELECT DISTINCT block_number FROM (SELECT block_number FROM indexer.raw_log WHERE block_number BETWEEN $1"
        " AND $2 ORDER BY random() LIMIT $3) picked ORDER BY 1",
        standing.binding.origin,
        standing.next_block - 1,
        blocks,
    )
    if not picked:
        return 0, []
    chunk = await raw_logs.read_blocks(conn, [row["block_number"] for row in picked])
    events = events_of(writer.registry, chunk.logs, chunk.times)
    ledger = writer.ledger(dict.fromkeys(state_keys(events)), chunk.last)
    project(ledger, events)
    return await _appended(conn, ledger, [row["block_number"] for row in picked], STATEFUL)


async def recompute(
    conn: Connection, writer: Writer, standing: Standing, tell: Callable[[int], None]
) -> tuple[int, list[Finding]]:
    """Every row against the projection of all stored raw logs; how many rows were compared."""
    state: dict[StateKey, Kept] = {}
    compared, found = 0, list[Finding]()
    async for chunk in _chunks(conn, standing):
        events = events_of(writer.registry, chunk.logs, chunk.times)
        for key in state_keys(events):
            state.setdefault(key, None)
        ledger = writer.ledger(state, chunk.last)
        project(ledger, events)
        rows, drifts = await _appended(conn, ledger, (chunk.first, chunk.last), {})
        compared, found = compared + rows, found + drifts
        for table in BY_BLOCK:
            rows, drifts = await _states(conn, table, _rows(state, table), (chunk.first, chunk.last))
            compared, found = compared + rows, found + drifts
            for key in [key for key in state if key[0] == table]:
                del state[key]
        tell(chunk.last)
    for table in COLUMNS:
        if kind(table) == "state" and table not in BY_BLOCK:
            rows, drifts = await _states(conn, table, _rows(state, table), None)
            compared, found = compared + rows, found + drifts
    return compared, found


async def _chunks(conn: Connection, standing: Standing) -> AsyncIterator[raw_logs.Chunk]:
    first, last = standing.binding.origin, standing.next_block - 1
    while first <= last:
        chunk = await raw_logs.read(conn, first, last, CHUNK)
        yield chunk
        first = chunk.last + 1


def _rows(state: dict[StateKey, Kept], table: str) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for (name, key), kept in state.items():
        if kept is not None and table in (tables := tables_of(name)):
            found[repr(key)] = rows_of(name, kept)[tables.index(table)] or {}
    return found


async def _appended(
    conn: Connection, ledger: Ledger, blocks: Sequence[int], without: dict[str, set[str]]
) -> tuple[int, list[Finding]]:
    """Rows the ledger collected against those stored. `blocks`: a list, or as a tuple the first and the last."""
    compared, found = 0, list[Finding]()
    condition = "t.unique_id BETWEEN $1::bigint * 100000 AND $2::bigint * 100000 + 99999"
    for table in filter(lambda name: kind(name) == "append", COLUMNS):
        if isinstance(blocks, tuple):
            stored = await conn.fetch(f"SELECT * FROM {sql_name(table)} t WHERE {condition}", *blocks)
        else:
            ids = "t.unique_id BETWEEN b * 100000 AND b * 100000 + 99999"
            stored = await conn.fetch(
                f"SELECT t.* FROM unnest($1::bigint[]) b JOIN {sql_name(table)} t ON {ids}", list(blocks)
            )
        meant = {row["id"]: row for row in ledger.rows(table)}
        columns = [c for c in COLUMNS[table] if c not in without.get(table, ())]
        have = {row["id"]: dict(row) for row in stored}
        compared += len(meant | have)
        found += _differences(table, columns, meant, have)
    return compared, found


async def _states(
    conn: Connection, table: str, meant: dict[str, Row], blocks: tuple[int, int] | None
) -> tuple[int, list[Finding]]:
    where = "" if blocks is None else f" WHERE block_number BETWEEN {blocks[0]} AND {blocks[1]}"
    stored = await conn.fetch(f"SELECT {columns_of(table)} FROM {sql_name(table)}{where}")
    have = {repr(tuple(row[c] for c in KEYS[table])): row_of(table, row) for row in stored}
    return len(meant | have), _differences(table, list(COLUMNS[table]), meant, have)


def _differences(table: str, columns: list[str], meant: dict[str, Row], have: dict[str, Row]) -> list[Finding]:
    found: dict[str, list[str]] = defaultdict(list)
    for key in meant.keys() - have.keys():
        found[key].append("missing")
    for key in have.keys() - meant.keys():
        found[key].append("no raw log makes it")
    for key in meant.keys() & have.keys():
        for column in columns:
            is_, should = have[key][column], meant[key].get(column)
            if is_ != should:
                found[key].append(f"{column} is {is_}, should be {should}")
    return [Finding(f"{table} as projected", key, "; ".join(what)[:500]) for key, what in sorted(found.items())][:MOST]


async def keep(conn: Connection, drifts: Sequence[Finding], block: int) -> None:
    """Writes what was found, with the block up to which was projected."""
    await conn.executemany(
        'INSERT INTO indexer.drift (block_number, "check", subject, detail) VALUES ($1, $2, $3, $4)',
        [(block, *drift) for drift in drifts],
    )
