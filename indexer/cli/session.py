"""Resources shared by the commands: endpoints with a checked chain id, the database and its schema."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import asyncpg
import click
import structlog

from indexer import config
from indexer.config import Deployment
from indexer.db.connection import Connection, connect, connection
from indexer.embedded_pg.server import EmbeddedServer, database_name
from indexer.errors import ConfigError, IndexerError, RefusedError
from indexer.exit_codes import ExitCode
from indexer.rpc.pool import Pool
from indexer.runtime import secrets, shell, signals
from indexer.runtime.secrets import redact
from indexer.runtime.tasks import in_thread
from indexer.schema import revisions
from indexer.store.incidents import report_refusal
from indexer.store.index_state import binding, check_binding

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """The flags of every command on a database. `endpoints`: empty if the command asks none.

    A command with more flags adds fields of their names.
    """

    deployment: Deployment
    endpoints: tuple[str, ...] = ()
    data_dir: Path | None = None
    pg_bin: Path | None = None

    @classmethod
    def from_click(cls, chain: str, rpc_urls: Sequence[str] | None, **flags: Any) -> Self:
        """Load the deployment and find its endpoints; None for `rpc_urls` means that the command asks none.

        `flags`: the other fields by their names. Raises ConfigError.
        """
        deployment = config.load(chain)
        endpoints = () if rpc_urls is None else rpc_endpoints(deployment, rpc_urls)
        return cls(deployment=deployment, endpoints=endpoints, **flags)


class Session(contextlib.AsyncExitStack):
    """The resources of one command: opened in the order in which it asks for them, closed in the reverse order.

    A command that stores what endpoints say of the chain opens the pool first: the chain id is checked before any
    database is touched.
    """

    def __init__(self, options: SessionOptions) -> None:
        super().__init__()
        self._options = options
        self._url: str | None = None

    async def __aexit__(self, *error: Any) -> bool | None:
        """Close everything. What failed is noted first: a resource may not close before a forced end."""
        if isinstance(error[1], IndexerError):
            signals.fail_with(error[1].exit_code)
        return await super().__aexit__(*error)

    async def open_pool(self, rps: float | None = None) -> Pool:
        """Open a pool and check its chain id. `rps` overrides the deployment's rate. Raises WrongChainError."""
        return await self.enter_async_context(_open_pool(self._options, rps))

    async def database_url(self) -> str:
        """Return the URL of the deployment's database; start the embedded server if needed."""
        if self._url is None:
            options = self._options
            self._url = await in_thread(open_url, options.deployment.name, options.data_dir, options.pg_bin)
        return self._url

    async def connect(self) -> Connection:
        """Open a connection to the database, which is checked as checked_connection() says."""
        return await self.enter_async_context(checked_connection(await self.database_url(), self._options.deployment))


def rpc_endpoints(deployment: Deployment, flags: Sequence[str]) -> tuple[str, ...]:
    """Return the HTTP endpoints. Raises ConfigError, which names the variable to set, if there are none."""
    urls = deployment.endpoints("RPC", flags)
    warn_about_visible_secrets(flags)
    if not urls:
        raise ConfigError(
            f"no endpoint is configured for {deployment.name}",
            f"Set {deployment.env_prefix}_RPC_URL=https://... (a comma-separated list), or pass --rpc-url",
        )
    return urls


def warn_about_visible_secrets(flags: Sequence[str]) -> None:
    """Warn if a flag contains a secret, because every user of the machine can read flags."""
    for url in (part.strip() for flag in flags for part in flag.split(",")):
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or any(len(p) >= 16 for p in parts.path.split("/")):
            log.warning("secret_in_the_process_list", endpoint=redact(url), remedy="put the URL into the environment")


@contextlib.asynccontextmanager
async def _open_pool(options: SessionOptions, rps: float | None) -> AsyncIterator[Pool]:
    deployment = options.deployment
    pool = Pool(
        options.endpoints, deployment.chain_id, max_blocks=deployment.max_blocks, timeout=deployment.rpc_timeout,
        rps=rps or deployment.rps, budgets=dict(deployment.budgets),
    )  # fmt: skip
    try:
        await pool.open()
        yield pool
    finally:
        await pool.close()


@contextlib.contextmanager
def errors_as_json(as_json: bool) -> Iterator[None]:
    """With --json, print a failure as one object on stdout, too; exit code and line on stderr stay the same."""
    try:
        yield
    except IndexerError as error:
        if as_json:
            click.echo(json.dumps({"error": error.message, "remedy": error.remedy, "exit_code": error.exit_code}))
        raise


def check_stored(first: int, last: int) -> None:
    """Raise RefusedError for a range without a stored final block: an empty comparison must not read as a proof."""
    if first > last:
        raise RefusedError(f"no block from {first} on is stored and final: the last one is {last}", "Begin lower")


COMMITTED_IS_KEPT = "committed work is kept; run the same command again to continue"


@contextlib.contextmanager
def say_if_interrupted(what_is_kept: str) -> Iterator[None]:
    """End with a line of one's own and its exit code if a signal ends the work."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"interrupted: {what_is_kept}", err=True)
        raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None


def external_url() -> str | None:
    """Return DATABASE_URL, or the content of the file DATABASE_URL_FILE; None means to use the embedded server."""
    return secrets.secret("DATABASE_URL") or None


def embedded_server(data_dir: Path | None, pg_bin: Path | None) -> EmbeddedServer | None:
    """Return the embedded server; None if DATABASE_URL names another."""
    return None if external_url() else EmbeddedServer(data_dir, pg_bin)


_TLS_VARIABLES = frozenset(["PGSSLMODE", "PGSSLROOTCERT", "PGREQUIRESSL", "PGREQUIREAUTH", "PGCHANNELBINDING"])


def open_url(deployment_name: str, data_dir: Path | None, pg_bin: Path | None) -> str:
    """Return the URL of the deployment's database; start the embedded server and create the database if needed."""
    url = external_url()
    if url:
        if (dropped := _TLS_VARIABLES.intersection(shell.ignored)) and "sslmode=" not in url:
            remedy = "write sslmode=verify-full (and sslrootcert) into DATABASE_URL"
            log.warning("tls_variables_ignored", variables=sorted(dropped), remedy=remedy)
        return url
    server = EmbeddedServer(data_dir, pg_bin)
    server.start()
    name = database_name(deployment_name)
    server.ensure_database(name)
    log.info("embedded_postgresql", data_dir=str(server.data_dir), database=name)
    return server.url(name)


async def prepare_schema(url: str) -> None:
    """Migrate an empty database, or an older one of the embedded server; refuse everything else.

    Raises ForeignDatabaseError, SchemaOlderError, SchemaNewerError, DatabaseUnreachableError.
    """
    async with connection(url) as conn:
        revision = await revisions.require_known(conn, url)
        if revision == revisions.head_revision():
            return
        if revision is not None and external_url():
            await revisions.require_head(conn, url)  # It says what to do about the older one.
    log.info("migrating", database=redact(url), to=revisions.head_revision())
    from indexer.schema import migrate  # Imported here: Alembic is slow to import and seldom needed.

    await migrate.upgrade_async(url)


@contextlib.asynccontextmanager
async def checked_connection(url: str, deployment: Deployment) -> AsyncIterator[Connection]:
    """Connect to a database that is migrated to this release and either unbound or bound to the deployment.

    Raises ForeignDatabaseError, SchemaOlderError, SchemaNewerError, WrongDeploymentError, DatabaseUnreachableError.
    """
    async with connection(url) as conn:
        await revisions.require_head(conn, url)
        bound = await binding(conn)
        if bound is not None:
            check_binding(bound, deployment.name, deployment.chain_id)
        try:
            yield conn
        except Exception as error:
            if not isinstance(error, asyncpg.InsufficientPrivilegeError):  # Of a reader that is asked to write.
                await report_refusal(partial(connect, url), error, "command")
            raise


def ask_database(
    deployment: Deployment, data_dir: Path | None, pg_bin: Path | None, question: Callable[[Connection], Awaitable[T]]
) -> T:  # fmt: skip
    """Ask the deployment's database one question, for a command that does no more.

    Args:
        deployment: The deployment that the database must belong to.
        data_dir: Directory of the embedded server.
        pg_bin: Programs of the embedded server.
        question: Awaited with a checked connection.

    Raises:
        FatalError: The database is not migrated to this release, or belongs to another deployment.
    """
    options = SessionOptions(deployment=deployment, data_dir=data_dir, pg_bin=pg_bin)

    async def ask() -> T:
        async with Session(options) as session:
            return await question(await session.connect())

    return signals.run(ask())
