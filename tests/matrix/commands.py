"""Every leaf command of the program, and what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click

from indexer.cli.main import cli

DATABASE, ENDPOINT, CHAIN, EMBEDDED, OUTPUT = "database", "endpoint", "chain", "embedded", "output"


class Command(NamedTuple):
    """A command line, and what a cause must concern to stop it.

    `needs`: DATABASE it connects to one; ENDPOINT it asks one; CHAIN it reads a deployment; EMBEDDED it manages the
    embedded server; OUTPUT it always prints an answer. `waits`: it waits for what passes by itself.
    """

    line: str
    needs: frozenset[str]
    waits: bool = False


def _command(line: str, *needs: str, waits: bool = False) -> Command:
    return Command(line, frozenset(needs), waits)


COMMANDS = {
    "run": _command("run --log-format json --http-port 0", DATABASE, ENDPOINT, CHAIN, waits=True),
    "backfill": _command("backfill --log-format json --from-block 0", DATABASE, ENDPOINT, CHAIN, OUTPUT, waits=True),
    "reproject": _command("reproject --log-format json", DATABASE, CHAIN, OUTPUT),
    "verify": _command("verify --log-format json --yes --grade proven", DATABASE, ENDPOINT, CHAIN, OUTPUT),
    "check": _command("check --log-format json", DATABASE, CHAIN, OUTPUT),
    "enrich": _command("enrich --log-format json", DATABASE, ENDPOINT, CHAIN, OUTPUT),
    "status": _command("status", DATABASE, CHAIN, OUTPUT),
    "endpoints": _command("endpoints", DATABASE, CHAIN, OUTPUT),
    "doctor": _command("doctor", DATABASE, ENDPOINT, CHAIN, OUTPUT),
    "incidents list": _command("incidents list", DATABASE, CHAIN, OUTPUT),
    "incidents close": _command("incidents close 1 --note seen", DATABASE, CHAIN),
    "reorg list": _command("reorg list", DATABASE, CHAIN, OUTPUT),
    "reorg plan": _command("reorg plan --log-format json", DATABASE, ENDPOINT, CHAIN, OUTPUT),
    "reorg recover": _command(f"reorg recover --log-format json --confirm {'0' * 64}", DATABASE, ENDPOINT, CHAIN),
    "reorg show": _command("reorg show 1", DATABASE, CHAIN),
    "reorg status": _command("reorg status", DATABASE, CHAIN, OUTPUT),
    "reorg verify": _command("reorg verify --log-format json", DATABASE, ENDPOINT, CHAIN, OUTPUT),
    "stream bootstrap": _command("stream bootstrap one", DATABASE, CHAIN),
    "stream create": _command("stream create one", DATABASE, CHAIN),
    "stream drop": _command("stream drop one", DATABASE, CHAIN),
    "stream pause": _command("stream pause one", DATABASE, CHAIN),
    "stream resume": _command("stream resume one", DATABASE, CHAIN),
    "stream status": _command("stream status", DATABASE, CHAIN, OUTPUT),
    "decode": _command("decode --file /dev/null"),
    "migrate": _command("migrate", DATABASE, CHAIN, OUTPUT),
    "db columns": _command("db columns", OUTPUT),
    "db exec": _command("db exec -- printenv PGDATABASE", CHAIN),
    "db prisma": _command("db prisma", OUTPUT),
    "db psql": _command("db psql -- -c ''", CHAIN),
    "db roles": _command("db roles --dry-run", DATABASE, CHAIN, OUTPUT),
    "db start": _command("db start", EMBEDDED),
    "db status": _command("db status", EMBEDDED),
    "db stop": _command("db stop", EMBEDDED),
    "db url": _command("db url", CHAIN, OUTPUT),
    "config check": _command("config check", CHAIN, OUTPUT),
    "config show": _command("config show", CHAIN, OUTPUT),
}


def leaf_commands() -> Iterator[str]:
    """The names of all leaf commands that the program has."""

    def walk(command: click.Command, path: list[str], context: click.Context) -> Iterator[str]:
        if not isinstance(command, click.Group):
            yield " ".join(path)
            return
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, [*path, name], click.Context(found, context, name))

    return walk(cli, [], click.Context(cli))
