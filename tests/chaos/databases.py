"""Migrated databases by the dozen: copies of one template, which cost a tenth of a migration."""

from __future__ import annotations

import uuid

import asyncpg

from indexer.pg.server import EmbeddedServer
from indexer.store.migrate import upgrade_async


class Databases:
    """Of one server; the template is migrated at the first use."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server, self._template = server, ""

    async def make(self) -> str:
        """The URL of a new, migrated, unbound database."""
        if not self._template:
            template = f"template_{uuid.uuid4().hex[:12]}"
            self.server.ensure_database(template)
            await upgrade_async(self.server.url(template))
            self._template = template
        name = f"chaos_{uuid.uuid4().hex[:12]}"
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{self._template}"')
        return self.server.url(name)

    async def drop(self, url: str) -> None:
        await self._execute(f'DROP DATABASE IF EXISTS "{url.rsplit("/", 1)[1]}" WITH (FORCE)')

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
