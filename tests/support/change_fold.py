"""A consumer of the change log, as simple and slow as can be: a snapshot, then every captured change applied to it.

Bodies are read by PostgreSQL itself (COPY into a temporary table, jsonb_populate_recordset), by no decoder of ours.
Rows are compared as the text of their jsonb.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import asyncpg

from indexer.db.catalog import COLUMNS, KEYS, schema_and_name, sql_name, table_kind

PROJECTED = tuple(name for name in COLUMNS if table_kind(name) in ("append", "state"))
Rows = dict[tuple[str, ...], str]


class FoldedCommit(NamedTuple):
    """A row of the commit log that was applied, and the operations that its change log has, in order."""

    seq: int
    kind: str
    captured: bool
    ops: list[tuple[int, str]]


class ChangeFold:
    """Rows of every projected table, by table and key, as of commit `seq`.

    `history`: the tables after each commit that was applied. `surprises`: changes that contradict what the fold has:
    inserted although there was a row, or deleted with other values than the row had.
    """

    def __init__(self, conn: asyncpg.Connection) -> None:
        self.conn, self.seq = conn, 0
        self.tables: dict[str, Rows] = {}
        self.history: dict[int, dict[str, Rows]] = {}
        self.surprises: list[str] = []

    async def snapshot(self) -> None:
        """Take the tables as they are now."""
        async with self.conn.transaction(isolation="repeatable_read"):
            await self._snapshot()

    async def _snapshot(self) -> None:
        self.seq = await self.conn.fetchval("SELECT coalesce(max(seq), 0) FROM indexer.commit_log")
        self.tables = {name: await self._rows(name, sql_name(name)) for name in PROJECTED}

    async def follow(self) -> list[FoldedCommit]:
        """Apply what was committed since, and require the tables to be what it makes of them.

        What a commit changed that is not captured is only in the tables: compared are the rows that were captured after
        it.
        """
        commits = list[FoldedCommit]()
        async with self.conn.transaction(isolation="repeatable_read"):
            for seq, kind, captured in await self.conn.fetch(
                "SELECT seq, kind, captured FROM indexer.commit_log WHERE seq > $1 ORDER BY seq", self.seq
            ):
                commits.append(FoldedCommit(seq, kind, captured, await self._apply(seq)))
                self.history[seq] = {name: dict(rows) for name, rows in self.tables.items()}
                if not captured:
                    assert not commits[-1].ops, commits[-1]
                    self._void()
            stand = await self.conn.fetchrow(
                "SELECT l.seq, (l.checkpoint, l.checkpoint_hash, l.floor, l.safe) IS NOT DISTINCT FROM"
                " (c.number, c.hash, c.rollback_floor, c.safe_block) FROM indexer.commit_log l, indexer.checkpoint c"
                " ORDER BY l.seq DESC LIMIT 1"
            )
            assert stand is None or stand[1], f"the newest commit, {stand[0]}, does not say what the tables stand at"
            found = self.surprises + await self._differences(whole=all(commit.captured for commit in commits))
            assert not found, f"{len(found)} differences after {commits}:\n" + "\n".join(found[:20])
            await self._snapshot()
        return commits

    async def _apply(self, seq: int) -> list[tuple[int, str]]:
        changes = await self.conn.fetch("SELECT * FROM indexer.change_log WHERE seq = $1 ORDER BY ord", seq)
        assert [change["ord"] for change in changes] == list(range(len(changes)))
        for change in changes:
            await self._change(f"{seq}/{change['ord']}", change)
        return [(change["op"], change["table_name"]) for change in changes]

    async def _change(self, place: str, change: asyncpg.Record) -> None:
        op, table = change["op"], change["table_name"]
        if op == 0:
            assert (table, change["n"], change["body"]) == ("", 0, "")
            return self._void()
        rows, has = await self.decoded(table, change["encoding"], change["body"]), self.tables[table]
        assert len(rows) == change["n"], f"{place}: {len(rows)} keys of {change['n']} rows"
        for key, row in rows.items():
            if op == 1 and key in has:
                self.surprises.append(f"{place} {table} {key}: inserted over {has[key]}")
            if op == -1 and table_kind(table) == "append" and has.get(key, row) != row:
                self.surprises.append(f"{place} {table} {key}: deleted as {row}, was {has[key]}")
            if op == -1:
                has.pop(key, None)
            else:
                has[key] = row

    def _void(self) -> None:
        self.tables = {name: {} for name in PROJECTED}

    async def decoded(self, table: str, encoding: str, body: str) -> Rows:
        """Read a body. The temporary table has the columns of the catalog and no constraint."""
        columns = ", ".join(f'"{c}"' for c in COLUMNS[table])
        await self.conn.execute(
            f"DROP TABLE IF EXISTS pg_temp.body;"
            f"CREATE TEMPORARY TABLE body AS SELECT {columns} FROM {sql_name(table)} WHERE false"
        )
        if encoding == "copy":
            await self.conn.copy_to_table(
                "body", schema_name="pg_temp", source=io.BytesIO(body.encode()), format="text"
            )
        else:
            await self.conn.execute(
                f"INSERT INTO pg_temp.body SELECT {columns} FROM"
                f" jsonb_populate_recordset(NULL::{sql_name(table)}, $1::jsonb)",
                body,
            )
        return await self._rows(table, "pg_temp.body")

    async def _rows(self, table: str, place: str) -> Rows:
        keys = ", ".join(f'"{c}"::text' for c in KEYS[table])
        columns = ", ".join(f'"{c}"' for c in COLUMNS[table])
        rows: list[Any] = await self.conn.fetch(
            f"SELECT ARRAY[{keys}] AS key, to_jsonb(t)::text AS row FROM (SELECT {columns} FROM {place}) t"
        )
        return {tuple(row["key"]): row["row"] for row in rows}

    async def _differences(self, *, whole: bool) -> list[str]:
        """Compare every table; unless `whole`, only the rows that the fold has."""
        found = []
        for name in PROJECTED:
            have, want = self.tables[name], await self._rows(name, sql_name(name))
            keys = have.keys() | want.keys() if whole else have.keys()
            found += [
                f"{'.'.join(schema_and_name(name))} {key}: folded {have.get(key)}, is {want.get(key)}"
                for key in sorted(keys, key=str)
                if have.get(key) != want.get(key)
            ]
        return found
