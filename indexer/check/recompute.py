"""`check`: the identities, positions against the events that move them, and rows compared with their projection from
the stored raw logs, in one snapshot.

The whole recomputation starts with empty tables at the origin and keeps every state row in memory; a sample has no
state, so that it compares the columns that need none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

from indexer.check.invariants import INVARIANTS, MAX_REPORTED, UNFIT
from indexer.check.position_replay import Drift, Reconciliation
from indexer.db.catalog import COLUMNS, KEYS, sql_name, table_kind
from indexer.db.connection import Connection
from indexer.projections.events import EXECUTIONS, Row, StateKey, events_of, transactions
from indexer.projections.project import project, split_row, state_keys, tables_of
from indexer.projections.write_set import StateRow, WriteSet
from indexer.projector.rows import columns_of, row_of
from indexer.projector.writer import Writer
from indexer.store import raw_logs
from indexer.store.index_state import IndexState

CHUNK_LOGS = 20_000  # logs

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


async def find_violations(conn: Connection, tell: Callable[[str], None]) -> list[Drift]:
    """Rows for which an identity does not hold, at most MOST of each."""
    found = []
    for name, query in INVARIANTS.items():
        tell(name)
        rows = await conn.fetch(f"SELECT subject, detail FROM ({query}) drifts ORDER BY subject LIMIT {MAX_REPORTED}")
        found += [Drift(name, row["subject"], row["detail"]) for row in rows]
    return found


async def reconcile_positions(
    conn: Connection, writer: Writer, state: IndexState, tell: Callable[[int], None]
) -> tuple[Reconciliation, list[Drift]]:
    """Every position and execution against the stored events, from the origin on."""
    topics = {e.topic0 for c in writer.deployment.contracts for e in c.events if e.name in MOVING}
    unfit = await conn.fetch(UNFIT)
    followed = Reconciliation(frozenset(row[0] for row in unfit))
    async for chunk in _chunks(conn, state):
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


async def sample(conn: Connection, writer: Writer, state: IndexState, blocks: int) -> tuple[int, list[Drift]]:
    """Appended rows of so many random blocks with logs against their projection; how many rows were compared."""
    picked = await conn.fetch(
        "SELECT DISTINCT block_number FROM (SELECT block_number FROM indexer.raw_log WHERE block_number BETWEEN $1"
        " AND $2 ORDER BY random() LIMIT $3) picked ORDER BY 1",
        state.binding.origin,
        state.next_block - 1,
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
    conn: Connection, writer: Writer, index_state: IndexState, tell: Callable[[int], None]
) -> tuple[int, list[Drift]]:
    """Every row against the projection of all stored raw logs; how many rows were compared."""
    state: dict[StateKey, StateRow] = {}
    compared, found = 0, list[Drift]()
    async for chunk in _chunks(conn, index_state):
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
        if table_kind(table) == "state" and table not in BY_BLOCK:
            rows, drifts = await _states(conn, table, _rows(state, table), None)
            compared, found = compared + rows, found + drifts
    return compared, found


async def _chunks(conn: Connection, state: IndexState) -> AsyncIterator[raw_logs.StoredLogs]:
    first, last = state.binding.origin, state.next_block - 1
    while first <= last:
        chunk = await raw_logs.read(conn, first, last, CHUNK_LOGS)
        yield chunk
        first = chunk.last + 1


def _rows(state: dict[StateKey, StateRow], table: str) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for (name, key), kept in state.items():
        if kept is not None and table in (tables := tables_of(name)):
            found[repr(key)] = split_row(name, kept)[tables.index(table)] or {}
    return found


async def _appended(
    conn: Connection, ledger: WriteSet, blocks: Sequence[int], without: dict[str, set[str]]
) -> tuple[int, list[Drift]]:
    """Rows the ledger collected against those stored. `blocks`: a list, or as a tuple the first and the last."""
    compared, found = 0, list[Drift]()
    condition = "t.unique_id BETWEEN $1::bigint * 100000 AND $2::bigint * 100000 + 99999"
    for table in filter(lambda name: table_kind(name) == "append", COLUMNS):
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
) -> tuple[int, list[Drift]]:
    where = "" if blocks is None else f" WHERE block_number BETWEEN {blocks[0]} AND {blocks[1]}"
    stored = await conn.fetch(f"SELECT {columns_of(table)} FROM {sql_name(table)}{where}")
    have = {repr(tuple(row[c] for c in KEYS[table])): row_of(table, row) for row in stored}
    return len(meant | have), _differences(table, list(COLUMNS[table]), meant, have)


def _differences(table: str, columns: list[str], meant: dict[str, Row], have: dict[str, Row]) -> list[Drift]:
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
    return [Drift(f"{table} as projected", key, "; ".join(what)[:500]) for key, what in sorted(found.items())][
        :MAX_REPORTED
    ]


async def record_drift(conn: Connection, drifts: Sequence[Drift], block: int) -> None:
    """Writes what was found, with the block up to which was projected."""
    await conn.executemany(
        'INSERT INTO indexer.drift (block_number, "check", subject, detail) VALUES ($1, $2, $3, $4)',
        [(block, *drift) for drift in drifts],
    )
