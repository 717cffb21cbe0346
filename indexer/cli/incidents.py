"""`reya-indexer incidents list|close`: show what a person must look at, and close what was looked at."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from indexer import config
from indexer.cli.options import (
    Integer,
    chain_option,
    data_dir_option,
    json_option,
    pg_bin_option,
)
from indexer.cli.session import ask_database
from indexer.errors import RefusedError
from indexer.runtime import log_setup
from indexer.store import incidents

MAX_LISTED = 500


@click.group("incidents", epilog="\b\nExample:\n  reya-indexer incidents list --chain reya")
def incidents_group() -> None:
    """List incidents, and close those that were looked into.

    docs/runbook.md has an entry for each kind.
    """


@incidents_group.command("list", epilog="\b\nExample:\n  reya-indexer incidents list --all --json")
@chain_option
@click.option("--all", "every", is_flag=True, help=f"Include closed incidents; shows the newest {MAX_LISTED}.")
@data_dir_option
@pg_bin_option
@json_option
def list_command(chain: str, every: bool, data_dir: Path | None, pg_bin: Path | None, as_json: bool) -> None:
    """List open incidents, newest first."""
    log_setup.configure("console", quiet=True)
    listed = incidents.newest if every else incidents.open_now
    rows = ask_database(config.load(chain), data_dir, pg_bin, lambda conn: listed(conn, MAX_LISTED))
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("id", "incident", "subject", "count", "blocks", "opened", "closed", "detail")
    for row in rows:
        first, last = row["first_block"], row["last_block"]
        table.add_row(
            str(row["id"]), row["kind"], row["subject"], str(row["count"]),
            "-" if first is None else f"{first} to {last}", row["opened_at"][:19], (row["resolved_at"] or "-")[:19],
            row["detail"],
        )  # fmt: skip
    Console().print(table if rows else "No open incidents.")


@incidents_group.command(
    "close", epilog='\b\nExample:\n  reya-indexer incidents close 7 --note "node was behind a bad load balancer"'
)
@click.argument("number", type=Integer(1))
@chain_option
@click.option("--note", required=True, help="What you found out; stored with the incident.")
@data_dir_option
@pg_bin_option
@json_option
def close_command(
    number: int, chain: str, note: str, data_dir: Path | None, pg_bin: Path | None, as_json: bool
) -> None:
    """Close an incident. If the condition occurs again, a new incident is opened."""
    log_setup.configure("console", quiet=True)
    closed = ask_database(config.load(chain), data_dir, pg_bin, lambda conn: incidents.close(conn, number, note))
    if closed is None:
        raise RefusedError(f"there is no open incident {number}", "`reya-indexer incidents list` shows the open ones")
    click.echo(json.dumps(closed) if as_json else f"closed: {closed['kind']} {closed['subject']}")
