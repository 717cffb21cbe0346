"""Migrated databases by the dozen: copies of one template, which cost a tenth of a migration."""

from __future__ import annotations

import uuid
from pathlib import Path

import asyncpg

from indexer.embedded_pg.server import EmbeddedServer
from indexer.schema.migrate import upgrade_async


class Databases:
    """Of one server; the template is migrated at the first use."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server, self._template = server, ""
        self._tablespaces: dict[str, str] = {}  # by URL, of databases on a disk of their own

    async def make(self, disk: Path | None = None) -> str:
        """The URL of a new, migrated, unbound database; its files are in the folder `disk`, where one is named."""
        if not self._template:
            template = f"template_{uuid.uuid4().hex[:12]}"
            self.server.ensure_database(template)
            await upgrade_async(self.server.url(template))
            self._template = template
        name = f"chaos_{uuid.uuid4().hex[:12]}"
        url, where = self.server.url(name), ""
        if disk is not None:
            self._tablespaces[url] = where = f"disk_{name}"
            await self._execute(f"CREATE TABLESPACE {where} LOCATION '{disk}'")
        tablespace = f" TABLESPACE {where}" if where else ""
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{self._template}"{tablespace}')
        return url

    async def drop(self, url: str) -> None:
        await self._execute(f'DROP DATABASE IF EXISTS "{url.rsplit("/", 1)[1]}" WITH (FORCE)')
        if url in self._tablespaces:
            await self._execute(f"DROP TABLESPACE {self._tablespaces.pop(url)}")

    async def close(self) -> None:
        """Drops the template."""
        if self._template:
            await self.drop(self.server.url(self._template))
            self._template = ""

    async def _execute(self, statement: str) -> None:
        conn = await asyncpg.connect(self.server.url("postgres"))
        try:
            await conn.execute(statement)
        finally:
            await conn.close()
