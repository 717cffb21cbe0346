"""The ledger against the database: state rows loaded before a step, everything it changed written set-wise after."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from operator import itemgetter

import asyncpg

from indexer.db.catalog import COLUMNS, KEYS, schema_and_name, sql_name, table_kind
from indexer.db.connection import Connection, copy
from indexer.db.copy_format import rowset_sql, sql_type
from indexer.errors import StoreDamagedError
from indexer.projections.events import Event, Key, Row, StateKey
from indexer.projections.project import SHARED_LAYOUTS, WHOLE_TABLES, project, split_row, tables_of
from indexer.projections.write_set import Incident, StateRow, WriteSet
from indexer.runtime.exact_json import to_json
from indexer.store import effects
from indexer.store.incidents import record

MIN_THREADED_ROWS = 500  # events
_JSON = {name: [c for c, kind in columns.items() if kind == "json"] for name, columns in COLUMNS.items()}


async def load_state(
    conn: Connection, keys: Iterable[StateKey], whole: Iterable[str] = WHOLE_TABLES
) -> dict[StateKey, StateRow]:
    """The named state rows (None where there is none), and the small tables `whole` with all their rows.

    Raises StoreDamagedError where a state row of several tables is in some of them only: whatever is made of it
    would be a guess, and the others' next row a second one of its key.
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
        rows = await conn.fetch(_loads(table), *columns)
        key_of = _key_of(table)
        if table not in SHARED_LAYOUTS:
            state.update(((table, key_of(row)), row_of(table, row)) for row in rows)
            continue
        for row in rows:
            *values, found = row
            if found < len(tables_of(table)):
                raise StoreDamagedError(
                    f"one of {' and '.join(tables_of(table))} lacks a row that the other has",
                    "Run `reya-indexer reproject`, and look who deletes rows there",
                )
            state[table, key_of(row)] = tuple(values)
    return state


def columns_of(table: str) -> str:
    """The columns that `row_of` makes rows of, for a SELECT. A table that was adopted may have more."""
    return _quoted(COLUMNS[table])


@cache
def _loads(name: str) -> str:
    """The state rows of the keys whose columns are the parameters. As arrays: JSON costs the server twice as much."""
    keys, tables = KEYS[name], tables_of(name)
    arrays = ", ".join(f"${n}::text[]" for n in range(1, len(keys) + 1))
    joins = ""
    for n, table in enumerate(tables):
        same = " AND ".join(f't{n}."{c}" = k."{c}"::{sql_type(COLUMNS[name][c])}' for c in keys)
        joins += f" {'LEFT ' if len(tables) > 1 else ''}JOIN {sql_name(table)} t{n} ON {same}"
    picked = ", ".join(f't0."{c}"' for c in COLUMNS[name])
    if name in SHARED_LAYOUTS:
        # The values of its layout, and how many of its tables have the row.
        found = "num_nonnulls({})".format(", ".join(f't{n}."{keys[0]}"' for n in range(len(tables))))
        picked = ", ".join([*(f't{n}."{column}"' for n, column in SHARED_LAYOUTS[name].sources), found])
        joins += f" WHERE {found} > 0"
    return f"SELECT {picked} FROM unnest({arrays}) AS k({_quoted(keys)}){joins}"


@cache
def _lines(table: str) -> str:
    return rowset_sql(COLUMNS[table])


@cache
def _key_of(table: str) -> Callable[[asyncpg.Record], Key]:
    keys = KEYS[table]
    if len(keys) == 1:  # itemgetter would give the value alone
        return lambda row: (row[keys[0]],)
    return itemgetter(*keys)


async def empty_tables(conn: Connection) -> frozenset[str]:
    """The state tables that have no row."""
    names = [name for name in COLUMNS if table_kind(name) == "state"]
    looks = ", ".join(f"NOT EXISTS (SELECT FROM {sql_name(name)})" for name in names)
    row = await conn.fetchrow(f"SELECT {looks}")
    empty = {name for name, empty in zip(names, row or (), strict=True) if empty}
    return frozenset(name for name in empty if empty.issuperset(tables_of(name)))


def row_of(table: str, record: asyncpg.Record) -> Row:
    """A stored row, read by `columns_of`, as projections know it: jsonb, which the driver gives as text, as lists."""
    row = dict(zip(COLUMNS[table], record, strict=True))
    for column in _JSON[table]:
        row[column] = None if row[column] is None else json.loads(row[column])
    return row


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """What a step writes, ready for the server: nothing in it refers to the ledger, which may go on with later events.

    `copies`: COPY text of new rows by table, appended ones and state rows that had none before; `upserts`: the same of
    the other changed state rows; `images`: JSON of before-images. Each with its number of rows.
    """

    copies: dict[str, tuple[int, bytes]]
    upserts: dict[str, tuple[int, str]]
    images: tuple[int, str]
    incidents: list[Row]


def prepare(ledger: WriteSet) -> PreparedRows:
    """What the ledger collected. A state row changed many times counts once."""
    lines: dict[str, list[str]] = defaultdict(list)
    for table, rows in ledger.appended.items():
        lines[table] = [line for _, _, line in rows]
    changed: dict[str, list[str]] = defaultdict(list)
    for place, written in ledger.changed.items():
        into = lines if place in ledger.created else changed
        for table, line in zip(tables_of(place[0]), written, strict=True):
            into[table].append(line)
    images = [
        {"block_number": number, "table_name": table, "key": _named(table, key), "row": row}
        for (number, (name, key)), kept in ledger.before.items()
        for table, row in zip(tables_of(name), split_row(name, kept), strict=True)
    ]
    return PreparedRows(
        {table: (len(some), "".join(some).encode()) for table, some in lines.items() if some},
        {table: (len(some), "".join(some)) for table, some in changed.items()},
        (len(images), to_json(images)),
        _grouped(ledger.incidents),
    )


async def project_and_prepare(ledger: WriteSet, events: list[Event]) -> PreparedRows:
    """Projects the events into the ledger and renders it. Long work is done in a thread, while the server is busy with
    something else; nobody else may touch the ledger meanwhile."""

    def work() -> PreparedRows:
        project(ledger, events)
        return prepare(ledger)

    return work() if len(events) < MIN_THREADED_ROWS else await asyncio.to_thread(work)


async def write_rows(conn: Connection, output: PreparedRows) -> dict[str, int]:
    """Writes what a step changed. Rows written by table. Raises WriteInterceptedError when a row is not taken."""
    counts: dict[str, int] = {}
    for table, (count, encoded) in output.copies.items():
        done = await copy(conn, *schema_and_name(table), COLUMNS[table], encoded)
        await effects.require(conn, table, "inserted", done, count)
        counts[table] = count
    for table, (count, text) in output.upserts.items():
        await upsert(conn, table, count, _lines(table), text)
        counts[table] = counts.get(table, 0) + count
    if output.images[0]:
        added = await conn.execute(
            "INSERT INTO indexer.before_image (block_number, table_name, key, row) SELECT * FROM"
            " jsonb_to_recordset($1::jsonb) AS x(block_number bigint, table_name text, key jsonb, row jsonb)",
            output.images[1],
        )
        # A rollback restores what it finds here, and cannot know of an image that was dropped.
        await effects.require(conn, "indexer.before_image", "inserted", effects.counted(added), output.images[0])
    if output.incidents:
        await record(conn, output.incidents)
    return counts


async def delete_state(conn: Connection, keys: Iterable[StateKey]) -> None:
    """Deletes state rows and what is kept to restore them, as if nothing had ever written them."""
    by_table: dict[str, list[Row]] = defaultdict(list)
    for name, key in keys:
        for table in tables_of(name):
            by_table[table].append(_named(table, key))
    for table, named in by_table.items():
        name = sql_name(table)
        match = " AND ".join(f't."{c}" = k."{c}"' for c in KEYS[table])
        rows = f"jsonb_populate_recordset(NULL::{name}, $1::jsonb) k"
        await effects.delete(conn, table, match, to_json(named), using=rows)
        await conn.execute(
            "DELETE FROM indexer.before_image WHERE table_name = $1"
            " AND key IN (SELECT k FROM jsonb_array_elements($2::jsonb) k)",
            table,
            to_json(named),
        )


async def upsert(conn: Connection, table: str, count: int, source: str, *args: object) -> int:
    """Inserts the `count` rows r.* that `source` gives ({name} is the table), replacing those of equal key. Raises
    WriteInterceptedError when one is neither inserted nor replaced."""
    columns, name = COLUMNS[table], sql_name(table)
    rest = [c for c in columns if c not in KEYS[table]]
    update = ", ".join(f'"{c}" = EXCLUDED."{c}"' for c in rest)
    picked = ", ".join(f'r."{c}"' for c in columns)
    done = await conn.execute(
        f"INSERT INTO {name} ({_quoted(columns)}) SELECT {picked} FROM {source.format(name=name)}"
        f" ON CONFLICT ({_quoted(KEYS[table])}) DO {f'UPDATE SET {update}' if update else 'NOTHING'}",
        *args,
    )
    if rest:  # of a row that is nothing but its key an equal one stays as it is
        await effects.require(conn, table, "upserted", effects.counted(done), count)
    return effects.counted(done)


def _grouped(incidents: Iterable[Incident]) -> list[Row]:
    """One row by kind and subject; its detail is the first one's."""
    grouped: dict[tuple[str, str], Row] = {}
    for one in incidents:
        new = {"kind": one.kind, "subject": one.subject, "detail": one.detail, "first_block": one.block_number}
        known = grouped.setdefault((one.kind, one.subject), new | {"count": 0})
        known["count"] += 1
        known["last_block"] = one.block_number
    return list(grouped.values())


def _named(table: str, key: Key) -> Row:
    return dict(zip(KEYS[table], key, strict=True))


def _quoted(columns: Iterable[str]) -> str:
    return ", ".join(f'"{c}"' for c in columns)
