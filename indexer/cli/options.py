"""Flags that several commands share."""

from __future__ import annotations

import click

chain_option = click.option(
    "--chain", default="reya", show_default=True, metavar="NAME", help="Deployment: a name in config/, or a .toml file."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
