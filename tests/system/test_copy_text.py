"""What COPY is given, read back from a real PostgreSQL: every kind of column, at its limits, and the oddest texts."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import asyncpg
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.chain.types import Header, Log
from indexer.db.copy_format import block_rows, log_rows, rowset_sql
from indexer.projections.row_encoder import RowEncoder
from indexer.runtime.exact_json import to_json
from indexer.schema import migrate

KINDS = ("numeric", "bigint", "integer", "smallint", "text", "bool", "timestamp", "json")
COLUMNS = {f"{kind}{rest}": f"{kind}{rest}" for kind in KINDS for rest in ("", " not null")}
TABLE = ", ".join(f'"{c}" {k}' for c, k in COLUMNS.items())
TABLE = TABLE.replace('" numeric', '" numeric(78,0)').replace('" timestamp', '" timestamp(3)')
TABLE = TABLE.replace('" json', '" jsonb')
LOG = ("block_number", "log_index", "address", "transaction_hash", "transaction_index", "topics", "data")

texts = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.text("\\.NBtnr\t\n\r\b\f\v\"',{} \u0085\u2028\U0001f600a", max_size=8),
)
values: dict[str, st.SearchStrategy[Any]] = {
    "numeric": st.integers(1 - 10**78, 10**78 - 1),
    "bigint": st.integers(-(1 << 63), (1 << 63) - 1),
    "integer": st.integers(-(1 << 31), (1 << 31) - 1),
    "smallint": st.integers(-(1 << 15), (1 << 15) - 1),
    "text": texts,
    "bool": st.booleans(),
    "timestamp": st.datetimes(datetime(1970, 1, 1)).map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    "json": st.lists(st.integers(1 - 10**78, 10**78 - 1) | texts | st.lists(st.integers(0, 9)), max_size=4),
}
rows = st.lists(
    st.fixed_dictionaries(
        {f"{k} not null": v for k, v in values.items()},
        optional={k: st.none() | v for k, v in values.items()},
    ),
    max_size=20,
)
digest = st.binary(min_size=32, max_size=32)
logs = st.lists(
    st.builds(
        Log,
        st.integers(0, 1 << 62),
        st.integers(0, 99_999),
        st.binary(min_size=20, max_size=20),
        digest,
        st.integers(0, 1 << 30),
        st.lists(digest, max_size=4).map(tuple),
        st.binary(max_size=200),
        st.just(b""),
    ),
    max_size=20,
    unique_by=lambda log: log[:2],
)
headers = st.lists(
    st.builds(Header, st.integers(0, 1 << 62), digest, st.just(b"") | digest, st.integers(0, 1 << 62)),
    max_size=20,
    unique_by=lambda header: header.number,
)


def test_what_is_copied_is_what_is_read_back(fresh_database: Callable[[], str]) -> None:
    with asyncio.Runner() as runner:
        url = fresh_database()
        migrate.upgrade(url)
        conn = runner.run(asyncpg.connect(url))
        for table in (
            f"any_row ({TABLE}, n serial)",
            "any_log (LIKE indexer.raw_log, n serial)",
            "any_block (LIKE indexer.block, n serial)",
        ):
            runner.run(conn.execute(f"CREATE TABLE {table}"))
        runner.run(conn.set_type_codec("jsonb", schema="pg_catalog", encoder=to_json, decoder=json.loads))

        async def back(table: str, columns: list[str], lines: bytes, source: str = "") -> list[tuple[Any, ...]]:
            await conn.execute(f"TRUNCATE {table}")
            picked = ", ".join(f'"{c}"' for c in columns)
            if lines.startswith(b"PGCOPY"):
                await conn.copy_to_table(table, source=io.BytesIO(lines), columns=columns, format="binary")
            elif source:
                await conn.execute(f"INSERT INTO {table} ({picked}) SELECT {picked} FROM {source}", lines.decode())
            else:
                await conn.copy_to_table(table, source=io.BytesIO(lines), columns=columns, format="text")
            return [tuple(r) for r in await conn.fetch(f"SELECT {picked} FROM {table} ORDER BY n")]

        lines = RowEncoder({"any_row": COLUMNS})

        def line(row: dict[str, Any]) -> str:
            written = lines.encode(lines.plain("any_row", tuple(row)), tuple(row.values()))
            assert written is not None
            return written[0]

        async def check(some: list[dict[str, Any]], seen: list[Log], blocks: list[Header]) -> None:
            columns = list(COLUMNS)
            text = "".join(map(line, some)).encode()
            meant = [tuple(map(r.get, columns)) for r in some]
            assert await back("any_row", columns, text) == meant
            assert await back("any_row", columns, text, rowset_sql(COLUMNS)) == meant
            assert await back("any_log", list(LOG), log_rows(seen)) == [
                (*log[:5], b"".join(log.topics), log.data) for log in seen
            ]
            assert await back("any_block", ["number", "hash", "parent_hash", "timestamp"], block_rows(blocks)) == [
                (b.number, b.hash, b.parent_hash or None, b.timestamp) for b in blocks
            ]

        @settings(max_examples=150, deadline=None)
        @given(rows, logs, headers)
        def examples(some: list[dict[str, Any]], seen: list[Log], blocks: list[Header]) -> None:
            runner.run(check(some, seen, blocks))

        examples()
        runner.run(conn.close())
