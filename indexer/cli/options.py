"""Command-line options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

chain_option = click.option(
    "--chain", default="reya", show_default=True, metavar="NAME", help="Deployment: a name in config/, or a .toml file."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
rpc_option = click.option(
    "--rpc-url",
    "rpc_urls",
    multiple=True,
    metavar="URL",
    help="HTTP endpoint; may be repeated. Default: environment.",
)
ws_option = click.option(
    "--ws-url", "ws_urls", multiple=True, metavar="URL", help="WebSocket endpoint that announces heads."
)
log_format_option = click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    envvar="REYA_INDEXER_LOG_FORMAT",
    help="How log lines look on stderr.",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Debug lines too.")
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="REYA_INDEXER_DATA_DIR",
    show_envvar=True,
    help="Folder of the embedded PostgreSQL; unused with DATABASE_URL.",
)
pg_bin_option = click.option(
    "--pg-bin",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="REYA_INDEXER_PG_BIN",
    show_envvar=True,
    help="bin folder of a PostgreSQL 14 or newer to use instead of the packaged one.",
)
