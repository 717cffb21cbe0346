"""Command-line options that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

MAX_INTEGER = 2**63 - 1  # Of a bigint column.


class Integer(click.IntRange):
    """An integer from `min` on that PostgreSQL can compare with a bigint column."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the integer; fail with a usage error."""
        number = super().convert(value, param, ctx)
        if number > MAX_INTEGER:
            self.fail(f"{number} is above {MAX_INTEGER}.", param, ctx)
        return number


class Rate(click.FloatRange):
    """A number between bounds. Neither bound refuses what is not a number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fail with a usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def check_order(first: int | None, last: int | None, flags: tuple[str, str] = ("--from", "--to")) -> None:
    """Fail with a usage error if a range is upside down: it would be empty, and nothing would be found in it."""
    if first is not None and last is not None and last < first:
        raise click.BadParameter(f"{last} is below {flags[0]} {first}", param_hint=flags[1])


chain_option = click.option(
    "--chain",
    default="reya",
    show_default=True,
    metavar="NAME",
    help="Deployment: a name in config/, or the path of a .toml file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")
rpc_option = click.option(
    "--rpc-url",
    "rpc_urls",
    multiple=True,
    metavar="URL",
    help="HTTP endpoint; may be repeated. Default: the variable REYA_RPC_URL (CRONOS_RPC_URL, ...).",
)
ws_option = click.option(
    "--ws-url",
    "ws_urls",
    multiple=True,
    metavar="URL",
    help="WebSocket endpoint that announces new heads; may be repeated. Default: REYA_WS_URL (...).",
)
log_format_option = click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    envvar="REYA_INDEXER_LOG_FORMAT",
    help="Format of log lines on stderr.",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Include debug log lines.")
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="REYA_INDEXER_DATA_DIR",
    show_envvar=True,
    help="Directory of the embedded PostgreSQL; ignored if DATABASE_URL is set.",
)
pg_bin_option = click.option(
    "--pg-bin",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="REYA_INDEXER_PG_BIN",
    show_envvar=True,
    help="bin directory of a PostgreSQL 14 or newer to use instead of the bundled one.",
)
first_option = click.option(
    "--from", "--from-block", "first", type=Integer(0), metavar="N", help="First block. Default: the origin."
)
last_option = click.option(
    "--to", "--to-block", "last", type=Integer(0), metavar="N", help="Last block. Default: the finalized block."
)
