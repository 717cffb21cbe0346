"""Command-line options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

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
    "--from", "--from-block", "first", type=click.IntRange(0), metavar="N", help="First block. Default: the origin."
)
last_option = click.option(
    "--to", "--to-block", "last", type=click.IntRange(0), metavar="N", help="Last block. Default: the finalized block."
)
