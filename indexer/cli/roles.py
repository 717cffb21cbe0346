"""`reya-indexer db roles`: set up the owner, writer and reader roles of a database."""

from __future__ import annotations

import json
import re
from pathlib import Path

import asyncpg
import click

from indexer import config
from indexer.cli.options import chain_option, data_dir_option, json_option, pg_bin_option
from indexer.cli.session import open_url
from indexer.db.connection import DAY_S, connection
from indexer.embedded_pg.server import database_name
from indexer.errors import DatabaseUnreachableError, RefusedError, WriteInterceptedError
from indexer.runtime import secrets, signals
from indexer.schema import roles as store

_PREFIX = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,55}")
_SECRET = re.compile(r"PASSWORD '[^']*'")
# A daemon's step locks its tables for seconds only; a longer lock is reported as an error, not waited for. Statements
# have no time limit, because they may rewrite the rights of many tables.
_SESSION = {"lock_timeout": "30s", "statement_timeout": "0"}


@click.command(
    "roles",
    epilog="\b\nExamples:\n  reya-indexer db roles --dry-run\n"
    "  REYA_INDEXER_WRITER_PASSWORD_FILE=/run/secrets/writer reya-indexer db roles --prefix reya\n"
    "  psql -c 'GRANT reya_reader TO dashboards'",
)
@chain_option
@click.option("--prefix", metavar="NAME", help="Create NAME_owner, NAME_writer, NAME_reader. Default: from the chain.")
@click.option("--dry-run", is_flag=True, help="Print the SQL; change nothing.")
@data_dir_option
@pg_bin_option
@json_option
def roles_command(
    chain: str, prefix: str | None, dry_run: bool, data_dir: Path | None, pg_bin: Path | None, as_json: bool
) -> None:
    """Create or update owner, writer, and reader database roles.

    Each has the fewest permissions it needs: the owner for migrate, the writer for run, backfill, and reorg. Run it as
    a role that can create roles. The new roles cannot log in: grant them to roles that can, or set a password in
    REYA_INDEXER_OWNER_PASSWORD, _WRITER_, _READER_, or a file's name in the same with _FILE. Running it again only sets
    the passwords that are given.
    """
    deployment = config.load(chain).name
    name = prefix or re.sub(r"\W", "_", database_name(deployment))
    if not _PREFIX.fullmatch(name):
        raise click.BadParameter("must be at most 56 lowercase letters, digits, and _", param_hint="--prefix")
    roles = store.role_names(name)
    passwords = {
        role: secrets.secret(f"REYA_INDEXER_{duty.upper()}_PASSWORD", blanks=True)
        for duty, role in roles._asdict().items()
    }
    verifiers = {role: store.verifier(password) for role, password in passwords.items() if password}
    url = open_url(deployment, data_dir, pg_bin)
    statements = signals.run(_set_up(url, roles, verifiers, dry_run))
    shown = [_SECRET.sub("PASSWORD '<not shown>'", statement) for statement in statements]
    if as_json:
        answer = {"database": secrets.redact(url), **roles._asdict(), "dry_run": dry_run, "statements": shown}
        click.echo(json.dumps(answer))
        return
    for statement in shown:
        click.echo(statement + ";")
    if not shown:
        click.echo(f"{secrets.redact(url)}: {', '.join(roles)} have what they need, nothing to do")


async def _set_up(url: str, roles: store.Roles, verifiers: dict[str, str], dry_run: bool) -> list[str]:
    async with connection(url, timeout_s=DAY_S, **_SESSION) as conn:
        try:
            async with conn.transaction():
                statements = await store.setup(conn, roles, verifiers)
                for statement in [] if dry_run else statements:
                    await conn.execute(statement)
        except asyncpg.InsufficientPrivilegeError as error:
            remedy = "Nothing was changed. Set DATABASE_URL to a role that can create roles and owns the tables"
            raise WriteInterceptedError(f"{secrets.redact(url)}: {error}", remedy) from error
        except asyncpg.LockNotAvailableError as error:
            remedy = "Nothing was changed. Stop the indexer, or try again when it is less busy"
            raise DatabaseUnreachableError(f"{secrets.redact(url)}: a table is in use: {error}", remedy) from error
        except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError) as error:
            remedy = "Nothing was changed. Try again: somebody created a role with that name at the same time"
            raise RefusedError(f"{secrets.redact(url)}: {error}", remedy) from error
        return statements
