"""`reya-indexer reorg`: show past reorgs and how far back the next one can be rolled back."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

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
from indexer.cli.reorg_recovery import plan_command, recover_command, verify_command
from indexer.cli.session import ask_database
from indexer.db.connection import Connection
from indexer.errors import RefusedError
from indexer.runtime import log_setup
from indexer.store import reorg_journal
from indexer.store.index_state import binding, load_index_state

T = TypeVar("T")


@click.group("reorg", epilog="\b\nExample:\n  reya-indexer reorg list --chain reya")
def reorg_group() -> None:
    """Show past reorgs, and recover manually: plan, recover, verify."""


for _command in (plan_command, recover_command, verify_command):
    reorg_group.add_command(_command)


def _ask(chain: str, data_dir: Path | None, pg_bin: Path | None, question: Callable[[Connection], Awaitable[T]]) -> T:
    log_setup.configure("console", quiet=True)
    return ask_database(config.load(chain), data_dir, pg_bin, question)


@reorg_group.command("status", epilog="\b\nExample:\n  reya-indexer reorg status --json")
@chain_option
@data_dir_option
@pg_bin_option
@json_option
def status(chain: str, data_dir: Path | None, pg_bin: Path | None, as_json: bool) -> None:
    """Show the epoch, the last reorg, and the deepest rollback."""
    addresses = [c.address for c in config.load(chain).contracts]

    async def question(conn: Connection) -> dict[str, Any]:
        if await binding(conn) is None:
            return {"bound": False}
        state = await load_index_state(conn, addresses)
        last = await reorg_journal.latest(conn, 1)
        return {
            "bound": True,
            "epoch": state.epoch,
            "tip": state.tip.number if state.tip else None,
            "projected": state.checkpoint.number if state.checkpoint else None,
            "rollback_floor": state.floor if state.floor >= 0 else None,
            "before_images": await conn.fetchval("SELECT count(*) FROM indexer.before_image"),
            "state": await conn.fetchval(
                "SELECT state FROM indexer.lease WHERE expires_at > clock_timestamp() AND holder IS NOT NULL"
            ),
            "reorgs": await conn.fetchval("SELECT count(*) FROM indexer.reorg_journal"),
            "last": last[0] if last else None,
        }

    answer = _ask(chain, data_dir, pg_bin, question)
    if as_json:
        click.echo(json.dumps(answer))
        return
    for key, value in answer.items():
        click.echo(f"{key:15} {'-' if value is None else value}")


@reorg_group.command("list", epilog="\b\nExample:\n  reya-indexer reorg list --limit 5")
@chain_option
@click.option("--limit", default=20, show_default=True, type=Integer(1), help="Number of reorgs to show.")
@data_dir_option
@pg_bin_option
@json_option
def list_command(chain: str, limit: int, data_dir: Path | None, pg_bin: Path | None, as_json: bool) -> None:
    """List reorgs, newest first."""
    reorgs = _ask(chain, data_dir, pg_bin, lambda conn: reorg_journal.latest(conn, limit))
    if as_json:
        click.echo(json.dumps({"reorgs": reorgs}))
        return
    table = Table("id", "at", "fork point", "depth", "old tip", "new tip", "removed", "inserted", "ms", "endpoint")
    for r in reorgs:
        removed, inserted = sum(r["rows_removed"].values()), sum(r["rows_inserted"].values())
        cells = (r["id"], r["at"][:19], r["fork_point"], r["depth"], r["old_tip"], r["new_tip"], removed, inserted)
        table.add_row(*map(str, cells), str(r["duration_ms"]), r["endpoint"])
    Console().print(table if reorgs else "No reorgs.")


@reorg_group.command("show", epilog="\b\nExample:\n  reya-indexer reorg show 3 --json | jq .orphaned.order_history")
@click.argument("number", type=Integer(1), metavar="ID")
@chain_option
@data_dir_option
@pg_bin_option
@json_option
def show(number: int, chain: str, data_dir: Path | None, pg_bin: Path | None, as_json: bool) -> None:
    """Show one reorg and the rows it orphaned."""
    reorg = _ask(chain, data_dir, pg_bin, lambda conn: reorg_journal.get(conn, number))
    if reorg is None:
        raise RefusedError(f"there is no reorg {number}", "`reya-indexer reorg list` shows all reorgs")
    if as_json:
        click.echo(json.dumps(reorg))
        return
    orphaned = reorg.pop("orphaned")
    for key, value in reorg.items():
        click.echo(f"{key:15} {value}")
    for table, rows in orphaned.items():
        click.echo(f"orphaned in {table}:")
        for row in rows:
            click.echo(f"  {json.dumps(row)}")
