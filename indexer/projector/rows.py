"""Rows in the database: loads state rows before a step, and writes everything it changed, set-wise, after it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from operator import itemgetter

import asyncpg

from indexer.db.catalog import COLUMNS, KEYS, schema_and_name, sql_name, table_kind
from indexer.db.connection import Connection, copy, row_count
from indexer.db.copy_format import rowset_sql, sql_type
from indexer.errors import StoreDamagedError
from indexer.projections.events import Key, Row, StateKey
from indexer.projections.project import SHARED_LAYOUTS, WHOLE_TABLES, tables_of
from indexer.projections.write_set import StateRow
from indexer.projector.capture import Capture
from indexer.projector.prepare import PreparedRows, key_row
from indexer.runtime.exact_json import to_json
from indexer.store import effects
from indexer.store.incidents import record

_JSON = {name: [c for c, kind in columns.items() if kind == "json"] for name, columns in COLUMNS.items()}


async def load_state(
    conn: Connection, keys: Iterable[StateKey], whole: Iterable[str] = WHOLE_TABLES
) -> dict[StateKey, StateRow]:
    """Return the named state rows (None where there is none), and all rows of the small tables `whole`.

    Raises StoreDamagedError when a state row of several tables is in only some of them: whatever is computed from it
    would be a guess, and the next row of the others would be a second one of its key.
    """
    wanted: dict[str, list[Key]] = defaultdict(list)
    state: dict[StateKey, StateRow] = {}
    for table, key in keys:
        wanted[table].append(key)
        state[table, key] = None
    for table in whole:
        wanted.pop(table, None)
        for row in await conn.fetch(f"SELECT {columns_of(table)} FROM {sql_name(table)}"):
            state[table, _key_of(table)(row)] = row_of(table, row)
    for table, table_keys in wanted.items():
        columns = [[str(part) for part in column] for column in zip(*table_keys, strict=True)]
        rows = await conn.fetch(_select_sql(table), *columns)
        key_of = _key_of(table)
        if table not in SHARED_LAYOUTS:
            state.update(((table, key_of(row)), row_of(table, row)) for row in rows)
            continue
        for row in rows:
            *values, present = row
            if present < len(tables_of(table)):
                raise StoreDamagedError(
                    f"one of {' and '.join(tables_of(table))} lacks a row that the other has",
                    "Run `reya-indexer reproject`, and find out what deletes rows there",
                )
            state[table, key_of(row)] = tuple(values)
    return state


def columns_of(table: str) -> str:
    """Return the columns that `row_of` reads, for a SELECT. An adopted table may have more."""
    return _quoted(COLUMNS[table])


@cache
def _select_sql(name: str) -> str:
    """Return the query for state rows by key, one parameter per key column.

    The parameters are arrays: JSON costs the server twice as much.
    """
    keys, tables = KEYS[name], tables_of(name)
    arrays = ", ".join(f"${n}::text[]" for n in range(1, len(keys) + 1))
    joins = ""
    for n, table in enumerate(tables):
        same = " AND ".join(f't{n}."{c}" = k."{c}"::{sql_type(COLUMNS[name][c])}' for c in keys)
        joins += f" {'LEFT ' if len(tables) > 1 else ''}JOIN {sql_name(table)} t{n} ON {same}"
    picked = ", ".join(f't0."{c}"' for c in COLUMNS[name])
    if name in SHARED_LAYOUTS:
        # It selects the values of the layout, and how many of its tables have the row.
        present = "num_nonnulls({})".format(", ".join(f't{n}."{keys[0]}"' for n in range(len(tables))))
        picked = ", ".join([*(f't{n}."{column}"' for n, column in SHARED_LAYOUTS[name].sources), present])
        joins += f" WHERE {present} > 0"
    return f"SELECT {picked} FROM unnest({arrays}) AS k({_quoted(keys)}){joins}"


@cache
def _rowset_sql(table: str) -> str:
    return rowset_sql(COLUMNS[table])


@cache
def _key_of(table: str) -> Callable[[asyncpg.Record], Key]:
    keys = KEYS[table]
    if len(keys) == 1:  # itemgetter would return the bare value.
        return lambda row: (row[keys[0]],)
    return itemgetter(*keys)


async def empty_tables(conn: Connection) -> frozenset[str]:
    """Return the state tables that have no row."""
    names = [name for name in COLUMNS if table_kind(name) == "state"]
    checks = ", ".join(f"NOT EXISTS (SELECT FROM {sql_name(name)})" for name in names)
    row = await conn.fetchrow(f"SELECT {checks}")
    empty = {name for name, empty in zip(names, row or (), strict=True) if empty}
    return frozenset(name for name in empty if empty.issuperset(tables_of(name)))


def row_of(table: str, record: asyncpg.Record) -> Row:
    """Return a row, read by `columns_of`, as projections expect it: with jsonb, text to the driver, as lists."""
    row = dict(zip(COLUMNS[table], record, strict=True))
    for column in _JSON[table]:
        row[column] = None if row[column] is None else json.loads(row[column])
    return row


async def write_rows(conn: Connection, output: PreparedRows) -> dict[str, int]:
    """Write what a step changed. Return rows written, by table. Raises WriteInterceptedError when one is withheld."""
    counts: dict[str, int] = {}
    for table, (count, encoded) in output.copies.items():
        copied = await copy(conn, *schema_and_name(table), COLUMNS[table], encoded)
        await effects.require(conn, table, "inserted", copied, count)
        counts[table] = count
    for table, (count, text) in output.upserts.items():
        await upsert(conn, table, count, _rowset_sql(table), text)
        counts[table] = counts.get(table, 0) + count
    if output.images[0]:
        status = await conn.execute(
            "INSERT INTO indexer.before_image (block_number, table_name, key, row) SELECT * FROM"
            " jsonb_to_recordset($1::jsonb) AS x(block_number bigint, table_name text, key jsonb, row jsonb)",
            output.images[1],
        )
        # A rollback restores what it finds here and cannot know of an image that was withheld.
        await effects.require(conn, "indexer.before_image", "inserted", row_count(status), output.images[0])
    if output.incidents:
        await record(conn, output.incidents)
    return counts


async def drop_before_images(conn: Connection, floor: int) -> None:
    """Delete the before-images of blocks up to the floor, which is not rolled back any more."""
    await conn.execute("DELETE FROM indexer.before_image WHERE block_number <= $1", floor)


async def delete_state(conn: Connection, keys: Iterable[StateKey], capture: Capture) -> None:
    """Delete state rows and their before-images, as if nothing had ever written them."""
    by_table: dict[str, list[Row]] = defaultdict(list)
    for name, key in keys:
        for table in tables_of(name):
            by_table[table].append(key_row(table, key))
    for table, named in by_table.items():
        name = sql_name(table)
        match = " AND ".join(f't."{c}" = k."{c}"' for c in KEYS[table])
        rows, named_keys = f"jsonb_populate_recordset(NULL::{name}, $1::jsonb) k", to_json(named)
        capture.add_deleted(table, len(named), named_keys)
        await effects.delete(conn, table, match, named_keys, using=rows)
        await conn.execute(
            "DELETE FROM indexer.before_image WHERE table_name = $1"
            " AND key IN (SELECT k FROM jsonb_array_elements($2::jsonb) k)",
            table,
            named_keys,
        )


async def upsert(conn: Connection, table: str, count: int, source: str, *args: object) -> int:
    """Insert rows, replacing those of equal key, and return how many there were.

    Args:
        conn: connection of the caller's transaction.
        table: where they are inserted.
        count: how many `source` yields.
        source: SQL after FROM that yields them as r.*, with {name} for the table.
        args: parameters of `source`.

    Raises:
        WriteInterceptedError: a row was neither inserted nor replaced.
    """
    columns, name = COLUMNS[table], sql_name(table)
    rest = [c for c in columns if c not in KEYS[table]]
    update = ", ".join(f'"{c}" = EXCLUDED."{c}"' for c in rest)
    picked = ", ".join(f'r."{c}"' for c in columns)
    status = await conn.execute(
        f"INSERT INTO {name} ({_quoted(columns)}) SELECT {picked} FROM {source.format(name=name)}"
        f" ON CONFLICT ({_quoted(KEYS[table])}) DO {f'UPDATE SET {update}' if update else 'NOTHING'}",
        *args,
    )
    if rest:  # A row that is nothing but its key stays as it is, and is not counted.
        await effects.require(conn, table, "upserted", row_count(status), count)
    return row_count(status)


def _quoted(columns: Iterable[str]) -> str:
    return ", ".join(f'"{c}"' for c in columns)
