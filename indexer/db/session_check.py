"""Whether a new session is what the program needs: text in UTF-8, and the settings that were asked for.

A pooler between us and the server may drop settings in silence. Without them nothing limits a wait, a lock is held for
as long as a hung process lives, and row level security hides rows instead of being an error.
"""

from __future__ import annotations

from collections.abc import Mapping

import asyncpg

from indexer.errors import ConfigError

POOLER_REMEDY = (
    "Name the server itself in DATABASE_URL, or a pool of PgBouncer in session mode that passes start-up parameters on;"
    " the indexer keeps a handful of connections, so it needs no pooler"
)
# Words of PgBouncer, whatever error class it sends, and what a pool in transaction mode does to prepared statements.
_POOLER = ("unsupported startup parameter", "unsupported startup options", "prepared statement")
_DURATIONS = frozenset(["idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout"])
# Both are compared as intervals: the server shows 60s as 1min.
_OTHER = """
SELECT name, current_setting(name) FROM unnest($1::text[], $2::text[]) AS wanted (name, value)
WHERE CASE WHEN name = ANY($3::text[]) THEN current_setting(name)::interval <> value::interval
      ELSE lower(current_setting(name)) <> lower(value) END
"""


def is_of_pooler(error: BaseException) -> bool:
    """Return whether a refusal comes from a pooler between us and the server."""
    return any(words in str(error) for words in _POOLER)


async def check_session(conn: asyncpg.Connection, settings: Mapping[str, str]) -> None:
    """Raise ConfigError, with the remedy, for another encoding than UTF8, or for a setting that did not arrive."""
    encoding = getattr(conn.get_settings(), "server_encoding", "UTF8")
    if encoding != "UTF8":
        raise ConfigError(
            f"the encoding of the database is {encoding}, which cannot hold every name",
            "Make a database with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and name it in DATABASE_URL",
        )
    differing = await conn.fetch(_OTHER, list(settings), list(settings.values()), sorted(_DURATIONS))
    if differing:
        names = ", ".join(f"{name} = {value}" for name, value in differing)
        raise ConfigError(f"a pooler in front of the server dropped our settings ({names})", POOLER_REMEDY)
