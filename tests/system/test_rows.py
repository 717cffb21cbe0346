"""State rows on their way into a real PostgreSQL and back, above all those that are a row in two tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from indexer.db.catalog import COLUMNS, KEYS, sql_name
from indexer.db.connection import Connection, connection
from indexer.errors import StoreDamagedError
from indexer.projections import positions
from indexer.projections.events import Event, StateKey
from indexer.projections.project import SHARED_LAYOUTS, split_row
from indexer.projections.row_encoder import RowEncoder
from indexer.projections.write_set import StateRow, WriteSet
from indexer.projector.capture import Capture
from indexer.projector.prepare import prepare
from indexer.projector.rows import delete_state, empty_tables, load_state, row_of, write_rows
from indexer.schema import migrate

FLOOR = 5
LARGE = 10**77  # beyond a bigint


def values(market: int, account: int, base: int, block: int) -> tuple[Any, ...]:
    """A position's, with a NULL in either table."""
    own = {"market_id": market, "account_id": account, "base": base, "transaction_hash": f"0x{block:064x}",
           "block_timestamp": 1_700_000_000, "block_number": block, "unique_id": block * 100_000, "session": 1,
           "last_trade_sequence_number": None, "realized_pnl_latest_snapshot": -base or None}  # fmt: skip
    return tuple(own.get(name, LARGE) for name in positions.ROWS.names)


def event(block: int) -> Event:
    return Event(block, 1_700_000_000, 0, f"0x{block:064x}", "0x", "0x", "PositionDataUpdated", {})


async def step(conn: Connection, block: int, made: list[tuple[Any, ...]]) -> None:
    keys: list[StateKey] = [("positions", v[:2]) for v in made]
    ledger = WriteSet(RowEncoder(COLUMNS), await load_state(conn, keys), FLOOR)
    for one in made:
        ledger.put_values(positions.ROWS, one[:2], one, event(block))
    async with conn.transaction():
        await write_rows(conn, prepare(ledger))


async def stored(conn: Connection, table: str) -> dict[tuple[Any, ...], StateRow]:
    columns = ", ".join(f'"{c}"' for c in COLUMNS[table])
    rows = [row_of(table, row) for row in await conn.fetch(f"SELECT {columns} FROM {sql_name(table)}")]
    return {tuple(row[c] for c in KEYS[table]): row for row in rows}


async def test_a_position_is_two_rows_written_changed_read_kept_and_forgotten_together(
    fresh_database: Callable[[], str],
) -> None:
    url = fresh_database()
    await migrate.upgrade_async(url)
    first, other = values(1, LARGE, 7, 3), values(1, 2, 0, 3)
    changed = values(1, LARGE, -8, 6)
    async with connection(url) as conn:
        assert {"positions", "Asset"} <= await empty_tables(conn)
        await step(conn, 3, [first, other])
        await step(conn, 6, [changed])
        assert "positions" not in await empty_tables(conn)
        for n, table in enumerate(SHARED_LAYOUTS["positions"].tables):
            meant = {v[:2]: split_row("positions", v)[n] for v in (changed, other)}
            assert await stored(conn, table) == meant, table
        keys: list[StateKey] = [("positions", (1, LARGE)), ("positions", (1, 2)), ("positions", (1, 3))]
        assert await load_state(conn, keys, ()) == dict(zip(keys, (changed, other, None), strict=True))
        # What is kept of block 6 is the row of either table as it was before.
        images = await conn.fetch("SELECT table_name, row FROM indexer.before_image WHERE block_number = 6")
        was = dict(zip(SHARED_LAYOUTS["positions"].tables, split_row("positions", first), strict=True))
        assert {i["table_name"]: json.loads(i["row"]) for i in images} == was
        await delete_state(conn, keys, Capture(active=False))
        assert not await stored(conn, "positions") and not await stored(conn, "position_raw")
        assert not await conn.fetchval("SELECT count(*) FROM indexer.before_image")


@pytest.mark.parametrize("table", ["positions", "position_raw"])
async def test_half_a_position_is_damage_not_a_new_one(fresh_database: Callable[[], str], table: str) -> None:
    url = fresh_database()
    await migrate.upgrade_async(url)
    async with connection(url) as conn:
        await step(conn, 3, [values(1, 2, 7, 3), values(1, 3, 7, 3)])
        await conn.execute(f"DELETE FROM {table} WHERE account_id = 2")
        with pytest.raises(StoreDamagedError, match="positions and position_raw lacks a row"):
            await step(conn, 6, [values(1, 2, 8, 6)])
        await step(conn, 6, [values(1, 3, 8, 6)])  # the others go on
