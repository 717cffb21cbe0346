"""`reya-indexer db`: manage the embedded PostgreSQL and its roles; describe the tables for people and for Prisma."""

from __future__ import annotations

import difflib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import click

from indexer import config
from indexer.cli.options import chain_option, data_dir_option, json_option, pg_bin_option
from indexer.cli.roles import roles_command
from indexer.cli.session import external_url, open_url
from indexer.db.database_url import libpq_url
from indexer.embedded_pg import binaries
from indexer.embedded_pg.server import EmbeddedServer
from indexer.errors import EmbeddedServerError, IndexerError
from indexer.exit_codes import ExitCode
from indexer.runtime import log_setup, secrets


@click.group("db", epilog="\b\nExample:\n  reya-indexer db psql --chain reya")
def db_group() -> None:
    """Manage the database: embedded server, psql, roles, schema docs.

    The embedded PostgreSQL is used unless DATABASE_URL is set; then yours is.
    """


db_group.add_command(roles_command)


def _embedded(data_dir: Path | None, pg_bin: Path | None) -> EmbeddedServer:
    url = external_url()
    if url:
        raise EmbeddedServerError(
            f"DATABASE_URL is set ({secrets.redact(url)}): the embedded server is not used",
            "Unset DATABASE_URL to manage the embedded server",
        )
    return EmbeddedServer(data_dir, pg_bin)


@db_group.command("start", epilog="\b\nExample:\n  reya-indexer db start --data-dir /srv/reya")
@data_dir_option
@pg_bin_option
def start(data_dir: Path | None, pg_bin: Path | None) -> None:
    """Start the server unless it is running. `run` and `backfill` do this themselves."""
    server = _embedded(data_dir, pg_bin)
    server.start()
    status = server.status()
    click.echo(f"running: PostgreSQL {status.version}, port {status.port}, {status.data_dir}")


@db_group.command("stop", epilog="\b\nExample:\n  reya-indexer db stop")
@data_dir_option
def stop(data_dir: Path | None) -> None:
    """Stop the server and close its connections."""
    click.echo("stopped" if _embedded(data_dir, None).stop() else "was not running")


@db_group.command("status", epilog="\b\nExample:\n  reya-indexer db status --json")
@data_dir_option
@json_option
def status(data_dir: Path | None, as_json: bool) -> None:
    """Show whether the server is running, where, and on which port."""
    url = external_url()
    if url:
        answer: dict[str, object] = {"external": True, "url": secrets.redact(url)}
    else:
        answer = {"external": False} | asdict(EmbeddedServer(data_dir).status())
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for key, value in answer.items():
            click.echo(f"{key:10} {'-' if value is None else value}")


@db_group.command("url", epilog="\b\nExample:\n  psql $(reya-indexer db url --chain reya)")
@chain_option
@data_dir_option
@pg_bin_option
def url_command(chain: str, data_dir: Path | None, pg_bin: Path | None) -> None:
    """Print the database's URL, password included. Starts the server."""
    log_setup.configure("console", quiet=True)
    click.echo(open_url(config.load(chain).name, data_dir, pg_bin))


@db_group.command(
    "psql",
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExamples:\n  reya-indexer db psql\n  reya-indexer db psql -- -c 'SELECT count(*) FROM orders'",
)
@chain_option
@data_dir_option
@pg_bin_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(chain: str, data_dir: Path | None, pg_bin: Path | None, arguments: tuple[str, ...]) -> None:
    """Open psql on the database. Arguments after -- are passed to psql."""
    log_setup.configure("console", quiet=True)
    url, password = without_password(open_url(config.load(chain).name, data_dir, pg_bin))
    bundled = binaries.find(pg_bin) / "psql" if pg_bin or not external_url() else Path("psql")
    program = str(bundled) if bundled.is_file() else shutil.which("psql")
    if program is None:
        raise EmbeddedServerError("psql was not found on this machine", "Install a PostgreSQL client, or set --pg-bin")
    os.execve(program, [program, f"--dbname={url}", *arguments], os.environ | password)


@db_group.command(
    "exec",
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExamples:\n  reya-indexer db exec -- pg_dump --format=custom --create --file=reya.dump"
    "\n  reya-indexer db exec -- pg_basebackup --pgdata=copy",
)
@chain_option
@data_dir_option
@pg_bin_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def exec_command(chain: str, data_dir: Path | None, pg_bin: Path | None, command: tuple[str, ...]) -> None:
    """Run a PostgreSQL program connected to the database.

    The connection is in its environment (PGHOST, PGPASSWORD, ...). Its arguments, which every user of the machine can
    read, contain no secret.
    """
    log_setup.configure("console", quiet=True)
    url = open_url(config.load(chain).name, data_dir, pg_bin)
    environment = os.environ | libpq_environment(url)
    if pg_bin or not external_url():
        environment["PATH"] = f"{binaries.find(pg_bin)}:{environment.get('PATH', '')}"
    program = shutil.which(command[0], path=environment.get("PATH"))
    if program is None:
        raise EmbeddedServerError(
            f"{command[0]} was not found on this machine", "Install a PostgreSQL client, or set --pg-bin"
        )
    os.execve(program, command, environment)


@db_group.command(
    "prisma",
    epilog="\b\nExamples:\n  reya-indexer db prisma > schema.prisma"
    "\n  reya-indexer db prisma --output config/schema.prisma"
    "\n  reya-indexer db prisma --check config/schema.prisma",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write to FILE instead of stdout."
)
@click.option("--check", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Write nothing; show how FILE differs, and exit with 1 if it does.")  # fmt: skip
def prisma(output: Path | None, check: Path | None) -> None:
    """Print schema.prisma of the public tables and views. For readers that use Prisma; needs no database."""
    from indexer.schema.prisma import prisma_schema

    if output and check:
        raise click.UsageError("--output and --check are mutually exclusive.")
    wanted = prisma_schema()
    if check:
        _compare(check, wanted)
    elif output:
        try:
            output.write_text(wanted, encoding="utf-8")
        except OSError as error:
            raise IndexerError(f"{output}: {error.strerror}", "Choose a writable file") from error
        click.echo(f"{output}: {wanted.count(chr(10))} lines")
    else:
        click.echo(wanted, nl=False)


@db_group.command(
    "columns",
    epilog="\b\nExamples:\n  reya-indexer db columns order_history\n  reya-indexer db columns > columns.md",
)
@click.argument("table", required=False)
@json_option
def columns(table: str | None, as_json: bool) -> None:
    """Explain where the columns of TABLE, or of all tables, come from.

    Shows each one's event or formula, its unit, or why it is NULL.
    """
    from indexer.schema.tables.column_docs import COLUMN_DOCS, ENRICHED_DOCS, VIEW_DOCS, document, table_of

    known = COLUMN_DOCS | VIEW_DOCS | ENRICHED_DOCS
    if table is not None and table not in known:
        raise click.BadParameter(f"unknown table {table}. Known: {', '.join(known)}", param_hint="TABLE")
    if as_json:
        chosen = known if table is None else {table: known[table]}
        documents = {n: {"mark": d.mark, "row": d.row, "columns": d.columns()} for n, d in chosen.items()}
        click.echo(json.dumps(documents))
    else:
        click.echo(document() if table is None else table_of(table), nl=table is not None)


def _compare(path: Path, wanted: str) -> None:
    present = path.read_text(encoding="utf-8", errors="replace")
    if present == wanted:
        click.echo(f"{path}: as this release describes the tables")
        return
    parts = (present.splitlines(), wanted.splitlines())
    for line in difflib.unified_diff(*parts, str(path), "this release", lineterm="", n=0):
        click.echo(line)
    click.echo(f"{path} differs: `reya-indexer db prisma --output {path}` renews it", err=True)
    raise click.exceptions.Exit(ExitCode.UNEXPECTED)


def without_password(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL without its password, and the password as environment: all users can read psql's arguments."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    bare = url.replace(parts.netloc, f"{user}{at}{hosts}", 1) if at else url
    password = dict(parse_qsl(parts.query)).get("password", unquote(password))
    return libpq_url(bare, without=("password", "sslpassword")), {"PGPASSWORD": password} if password or colon else {}


_PARAMETERS = {
    "host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL", "sslnegotiation": "PGSSLNEGOTIATION", "passfile": "PGPASSFILE", "options": "PGOPTIONS",
    "target_session_attrs": "PGTARGETSESSIONATTRS", "connect_timeout": "PGCONNECT_TIMEOUT",
    "channel_binding": "PGCHANNELBINDING", "gssencmode": "PGGSSENCMODE",
}  # fmt: skip


def libpq_environment(url: str) -> dict[str, str]:
    """Return the environment that PostgreSQL's own programs read instead of a URL.

    Parameters of the query string take precedence, as in libpq.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    pairs = [host.rpartition(":") if ":" in host.rpartition("]")[2] else (host, "", "") for host in hosts.split(",")]
    environment = {
        "PGHOST": ",".join(unquote(host).strip("[]") for host, _, _ in pairs),
        "PGPORT": ",".join(port for _, _, port in pairs).strip(","),
        "PGUSER": unquote(user),
        "PGPASSWORD": unquote(password),
        "PGDATABASE": unquote(parts.path.lstrip("/")),
    }
    environment |= {_PARAMETERS[name]: value for name, value in parse_qsl(parts.query) if name in _PARAMETERS}
    return {name: value for name, value in environment.items() if value}
