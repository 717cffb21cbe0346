"""How Alembic reaches the database: a connection from indexer/schema/migrate.py, or DATABASE_URL over asyncpg.

All steps of one command share one transaction. Below the first revision nothing of ours may stay: the version table
and its schema go last, here, because Alembic still needs them after the first revision's own downgrade.
"""

from __future__ import annotations

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, text

from indexer.errors import DatabaseUnreachableError
from indexer.schema.migrate import CONTEXT, METADATA, transaction


def run(connection: Connection) -> None:
    """Runs the requested steps inside the caller's transaction."""
    # Alembic looks for its version table before the first revision can make the schema that holds it.
    connection.execute(text("CREATE SCHEMA IF NOT EXISTS indexer"))
    context.configure(connection=connection, target_metadata=METADATA, **CONTEXT)
    with context.begin_transaction():
        context.run_migrations()
    if not context.get_context().get_current_heads():
        connection.execute(text("DROP TABLE IF EXISTS indexer.alembic_version, indexer.adopted"))
        connection.execute(text("DROP SCHEMA indexer"))


async def run_from_environment() -> None:
    url = os.environ.get("DATABASE_URL")
    if not url:
        raise DatabaseUnreachableError("DATABASE_URL is not set", "Set it, or use `reya-indexer migrate`")
    async with transaction(url) as connection:
        await connection.run_sync(run)


if context.is_offline_mode():
    raise NotImplementedError("migrations run against a database: use `reya-indexer migrate`")
if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    asyncio.run(run_from_environment())
