"""A database against a recompute, column by column."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import asyncpg

from tests.support.oracle.base import STATES, Row


def _exact(text: str) -> int | Decimal:
    return Decimal(text) if "." in text else int(text)


async def fetch_database(url: str) -> dict[str, list[Row]]:
    """Every row of every table of `public`, indexer.undecoded and indexer.proxy_upgrade; numerics as exact integers."""
    conn = await asyncpg.connect(url)
    try:
        await conn.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_exact, format="text")
        # One snapshot: a daemon that commits a step between two SELECTs would look like a difference.
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            tables: dict[str, list[Row]] = {}
            for record in await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
                name = record["tablename"]
                tables[name] = [dict(row) for row in await conn.fetch(f'SELECT * FROM public."{name}"')]
            undecoded = await conn.fetch("SELECT address, topic0, reason, count FROM indexer.undecoded")
            upgrades = await conn.fetch("SELECT * FROM indexer.proxy_upgrade")
            return tables | {
                "indexer.undecoded": [dict(r) for r in undecoded],
                "indexer.proxy_upgrade": [dict(r) for r in upgrades],
            }
    finally:
        await conn.close()


LEVELS = {"_finalized": "rollback_floor", "_safe": "safe_block"}


async def fetch_level(url: str, suffix: str) -> tuple[int, dict[str, list[Row]]]:
    """The last finalized or safe block that the database knows, and the rows of every view of the suffix, by table."""
    conn = await asyncpg.connect(url)
    try:
        await conn.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_exact, format="text")
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            last = await conn.fetchval(f"SELECT {LEVELS[suffix]} FROM indexer.checkpoint")
            views = f"SELECT viewname FROM pg_views WHERE schemaname = 'public' AND viewname LIKE '%\\{suffix}'"
            tables: dict[str, list[Row]] = {}
            for record in await conn.fetch(views):
                rows = await conn.fetch(f'SELECT * FROM public."{record["viewname"]}"')
                tables[record["viewname"].removesuffix(suffix)] = [dict(row) for row in rows]
            return last, tables
    finally:
        await conn.close()


def differences(expected: dict[str, list[Row]], actual: dict[str, list[Row]]) -> list[str]:
    """One line each: missing, surplus and doubled rows, other values, values that nothing explains."""
    found: list[str] = []
    for table, rows in expected.items():
        key = STATES.get(table, ("id",))
        want = {tuple(r[k] for k in key): r for r in rows}
        have = Counter(tuple(r[k] for k in key) for r in actual.get(table, []))
        found += [f"{table} {k}: there {n} times" for k, n in have.items() if n > 1]
        found += [f"{table} {k}: missing" for k in want if k not in have]
        if len(want) != len(rows):
            found.append(f"{table}: the recompute has a key twice")
        for row in actual.get(table, []):
            identity = tuple(row[k] for k in key)
            if identity not in want:
                found.append(f"{table} {identity}: not on the chain")
                continue
            for column, value in row.items():
                meant = want[identity].get(column)
                if value != meant or (type(value) is not type(meant)):
                    found.append(f"{table} {identity} {column}: {value!r}, should be {meant!r}")
            found += [f"{table} {identity} {c}: no such column" for c in want[identity] if c not in row]
    return found
