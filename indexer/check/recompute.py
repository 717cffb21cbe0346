"""The work of `check`, in one snapshot: invariants, replay of positions, and rows compared with a fresh projection.

The full recompute starts with empty tables at the origin and keeps every state row in memory. A sample has no state
rows, so it compares only the columns that do not depend on them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

from indexer.chain.types import LOGS_PER_BLOCK
from indexer.check.counterparties import counterparty_drifts
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

CHUNK_LOGS = 20_000  # logs read at a time
_IN_BLOCKS = f"BETWEEN $1::bigint * {LOGS_PER_BLOCK} AND $2::bigint * {LOGS_PER_BLOCK} + {LOGS_PER_BLOCK - 1}"

# Columns of append rows that depend on state rows, which a sample does not have.
STATEFUL = {
    "order_history": {"type", "processed", "r_pnl", "price_variation_pnl", "funding_pnl", "average_entry_price"},
    "orders": {"liquidation_type", "position_session"},
    "liquidation_history_details": {"owner_address"},
    "rebate_fee_history": {"referee_wallet_address"},
}
# The events that change positions.
MOVING = EXECUTIONS | {"PositionDataUpdated", "MarketDataUpdated", "AccountExecutedLiquidationBid"}
# State tables with one row per block: compared and dropped as the stored logs are read, or memory would grow without
# bound (cost follows the work).
BY_BLOCK = ("pool_price_history",)


async def find_violations(conn: Connection, on_progress: Callable[[str], None]) -> list[Drift]:
    """Return the rows that violate an invariant, at most MAX_REPORTED per invariant; `on_progress` gets each name."""
    violations = []
    for name, query in INVARIANTS.items():
        on_progress(name)
        rows = await conn.fetch(f"SELECT subject, detail FROM ({query}) drifts ORDER BY subject LIMIT {MAX_REPORTED}")
        violations += [Drift(name, row["subject"], row["detail"]) for row in rows]
    return violations


async def reconcile_positions(
    conn: Connection, writer: Writer, state: IndexState, on_progress: Callable[[int], None]
) -> tuple[Reconciliation, list[Drift]]:
    """Replay the stored events from the origin on; compare every position, execution and counterparty with the rows.

    Args:
        conn: Connection in the snapshot to check.
        writer: Its registry decodes the logs.
        state: Gives the origin and the last projected block.
        on_progress: Called with the last replayed block.

    Returns:
        The replay, and the drifts of the rows.
    """
    topics = {e.topic0 for c in writer.deployment.contracts for e in c.events if e.name in MOVING}
    unfit = await conn.fetch(UNFIT)
    replayed = Reconciliation(frozenset(row[0] for row in unfit))
    async for stored_logs in _read_stored_logs(conn, state):
        moving = [log for log in stored_logs.logs if log.topics and log.topics[0] in topics]
        blocks = stored_logs.first, stored_logs.last
        pnl = await _by_unique_id(conn, "SELECT unique_id, r_pnl FROM public.order_history", blocks)
        named = await _by_unique_id(conn, "SELECT unique_id, counterparty_account_id FROM public.orders", blocks)
        for tx in transactions(events_of(writer.registry, moving, stored_logs.times)):
            replayed.add(tx, pnl)
            replayed.drifts += counterparty_drifts(tx, named)
        replayed.rows_without_execution(pnl)
        on_progress(stored_logs.last)
    stored = [dict(row) for row in await conn.fetch("SELECT * FROM public.positions")]
    drifts = replayed.drifts + replayed.compare(stored) + replayed.open_interest(stored)
    return replayed, drifts


async def _by_unique_id(conn: Connection, query: str, blocks: tuple[int, int]) -> dict[int, int | None]:
    """Return the second column of a query by the first, unique_id, of the rows of blocks first..last."""
    where = f" WHERE unique_id {_IN_BLOCKS}"
    return {unique_id: value for unique_id, value in await conn.fetch(query + where, *blocks)}


async def sample(conn: Connection, writer: Writer, state: IndexState, blocks: int) -> tuple[int, list[Drift]]:
    """Compare the append rows of random blocks with their projection.

    Args:
        conn: Connection in the snapshot to check.
        writer: Decodes and projects the logs.
        state: Gives the origin and the last projected block.
        blocks: How many blocks with logs to draw.

    Returns:
        The number of rows compared, and the drifts.
    """
    picked = await conn.fetch(
        "SELECT DISTINCT block_number FROM (SELECT block_number FROM indexer.raw_log WHERE block_number BETWEEN $1"
        " AND $2 ORDER BY random() LIMIT $3) picked ORDER BY 1",
        state.binding.origin,
        state.next_block - 1,
        blocks,
    )
    if not picked:
        return 0, []
    stored_logs = await raw_logs.read_blocks(conn, [row["block_number"] for row in picked])
    events = events_of(writer.registry, stored_logs.logs, stored_logs.times)
    write_set = writer.new_write_set(dict.fromkeys(state_keys(events)), stored_logs.last)
    project(write_set, events)
    return await _appended(conn, write_set, [row["block_number"] for row in picked], STATEFUL)


async def recompute(
    conn: Connection, writer: Writer, index_state: IndexState, on_progress: Callable[[int], None]
) -> tuple[int, list[Drift]]:
    """Compare every row with the projection of all stored raw logs.

    Args:
        conn: Connection in the snapshot to check.
        writer: Decodes and projects the logs.
        index_state: Gives the origin and the last projected block.
        on_progress: Called with the last projected block.

    Returns:
        The number of rows compared, and the drifts.
    """
    state: dict[StateKey, StateRow] = {}
    compared, all_drifts = 0, list[Drift]()
    async for stored_logs in _read_stored_logs(conn, index_state):
        events = events_of(writer.registry, stored_logs.logs, stored_logs.times)
        for key in state_keys(events):
            state.setdefault(key, None)
        write_set = writer.new_write_set(state, stored_logs.last)
        project(write_set, events)
        rows, drifts = await _appended(conn, write_set, (stored_logs.first, stored_logs.last), {})
        compared, all_drifts = compared + rows, all_drifts + drifts
        for table in BY_BLOCK:
            rows, drifts = await _states(conn, table, _rows(state, table), (stored_logs.first, stored_logs.last))
            compared, all_drifts = compared + rows, all_drifts + drifts
            for key in [key for key in state if key[0] == table]:
                del state[key]
        on_progress(stored_logs.last)
    for table in COLUMNS:
        if table_kind(table) == "state" and table not in BY_BLOCK:
            rows, drifts = await _states(conn, table, _rows(state, table), None)
            compared, all_drifts = compared + rows, all_drifts + drifts
    return compared, all_drifts


async def _read_stored_logs(conn: Connection, state: IndexState) -> AsyncIterator[raw_logs.StoredLogs]:
    first, last = state.binding.origin, state.next_block - 1
    while first <= last:
        stored_logs = await raw_logs.read(conn, first, last, CHUNK_LOGS)
        yield stored_logs
        first = stored_logs.last + 1


def _rows(state: dict[StateKey, StateRow], table: str) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for (name, key), row in state.items():
        if row is not None and table in (tables := tables_of(name)):
            rows[repr(key)] = split_row(name, row)[tables.index(table)] or {}
    return rows


async def _appended(
    conn: Connection, write_set: WriteSet, blocks: Sequence[int], without: dict[str, set[str]]
) -> tuple[int, list[Drift]]:
    """Compare the append rows of a write set with those stored. `blocks`: a list, or a tuple of first and last."""
    compared, drifts = 0, list[Drift]()
    condition = f"t.unique_id {_IN_BLOCKS}"
    for table in filter(lambda name: table_kind(name) == "append", COLUMNS):
        if isinstance(blocks, tuple):
            stored = await conn.fetch(f"SELECT * FROM {sql_name(table)} t WHERE {condition}", *blocks)
        else:
            ids = f"t.unique_id BETWEEN b * {LOGS_PER_BLOCK} AND b * {LOGS_PER_BLOCK} + {LOGS_PER_BLOCK - 1}"
            stored = await conn.fetch(
                f"SELECT t.* FROM unnest($1::bigint[]) b JOIN {sql_name(table)} t ON {ids}", list(blocks)
            )
        expected = {row["id"]: row for row in write_set.rows(table)}
        columns = [c for c in COLUMNS[table] if c not in without.get(table, ())]
        stored_rows = {row["id"]: dict(row) for row in stored}
        compared += len(expected | stored_rows)
        drifts += _differences(table, columns, expected, stored_rows)
    return compared, drifts


async def _states(
    conn: Connection, table: str, expected: dict[str, Row], blocks: tuple[int, int] | None
) -> tuple[int, list[Drift]]:
    where = "" if blocks is None else f" WHERE block_number BETWEEN {blocks[0]} AND {blocks[1]}"
    stored = await conn.fetch(f"SELECT {columns_of(table)} FROM {sql_name(table)}{where}")
    stored_rows = {repr(tuple(row[c] for c in KEYS[table])): row_of(table, row) for row in stored}
    return len(expected | stored_rows), _differences(table, list(COLUMNS[table]), expected, stored_rows)


def _differences(table: str, columns: list[str], expected: dict[str, Row], stored_rows: dict[str, Row]) -> list[Drift]:
    differences: dict[str, list[str]] = defaultdict(list)
    for key in expected.keys() - stored_rows.keys():
        differences[key].append("missing")
    for key in stored_rows.keys() - expected.keys():
        differences[key].append("no raw log makes it")
    for key in expected.keys() & stored_rows.keys():
        for column in columns:
            is_, should = stored_rows[key][column], expected[key].get(column)
            if is_ != should:
                differences[key].append(f"{column} is {is_}, should be {should}")
    return [Drift(f"{table} as projected", key, "; ".join(what)[:500]) for key, what in sorted(differences.items())][
        :MAX_REPORTED
    ]


async def record_drift(conn: Connection, drifts: Sequence[Drift], block: int) -> None:
    """Store drifts. `block`: the last projected block at the time of the check."""
    await conn.executemany(
        'INSERT INTO indexer.drift (block_number, "check", subject, detail) VALUES ($1, $2, $3, $4)',
        [(block, *drift) for drift in drifts],
    )
