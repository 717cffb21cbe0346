"""`reya-indexer endpoints`: show the stored endpoint health."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from indexer import config
from indexer.cli.options import chain_option, data_dir_option, json_option, pg_bin_option, rpc_option, ws_option
from indexer.cli.session import checked_connection, open_url
from indexer.config import Deployment
from indexer.rpc.pool import display_names
from indexer.runtime import log_setup, signals
from indexer.store.endpoint_health import load


@click.command(
    "endpoints",
    epilog="\b\nExamples:\n"
    "  reya-indexer endpoints --chain reya\n"
    "  reya-indexer endpoints --json | jq '.endpoints[] | select(.state != \"well\")'",
)
@chain_option
@rpc_option
@ws_option
@data_dir_option
@pg_bin_option
@json_option
def endpoints_command(
    chain: str, rpc_urls: tuple[str, ...], ws_urls: tuple[str, ...], data_dir: Path | None, pg_bin: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Show each endpoint's health as the daemon last stored it.

    That is state, lag, error rate, disagreements, and omissions. Contacts no endpoint: `doctor` does. Counts continue
    across restarts; the daemon writes about twice a minute.
    """
    log_setup.configure("console", quiet=True)
    deployment = config.load(chain)
    url = open_url(deployment.name, data_dir, pg_bin)
    names = [*display_names(deployment.endpoints("RPC", rpc_urls)), *display_names(deployment.endpoints("WS", ws_urls))]
    rows = signals.run(_endpoints(deployment, url, names))
    if as_json:
        click.echo(json.dumps({"endpoints": rows}))
    else:
        _show(rows)


async def _endpoints(deployment: Deployment, url: str, names: list[str]) -> list[dict[str, Any]]:
    """Return one JSON-ready row per endpoint. `configured`: whether the environment or a flag names it here, too."""
    async with checked_connection(url, deployment) as conn:
        stored = await load(conn)
    now = datetime.now(UTC)
    rows = []
    for row in stored:
        until = row["aside_until"]
        if until is not None and until <= now:  # No daemon has written since the endpoint's time was up.
            row |= {"aside_until": None, "reason": None, "state": "unknown"}
        times = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()}
        rows.append(times | {"configured": row["endpoint"] in names})
    best = max((row["head"] for row in rows if row["head"] is not None), default=0)
    for row in rows:  # Computed now: the lag of an endpoint that no longer answers must keep growing.
        row["lag_blocks"] = None if row["head"] is None else best - row["head"]
    return rows + [
        {"endpoint": name, "kind": "ws" if name.startswith("ws") else "http", "state": "never asked",
         "configured": True}
        for name in names if name not in {row["endpoint"] for row in stored}
    ]  # fmt: skip


def _show(rows: list[dict[str, Any]]) -> None:
    if not rows:
        click.echo("no endpoint was asked yet, and none is named by environment or flags")
        return
    table = Table("endpoint", "state", "head", "lag", "ms", "errors", "denied", "omitted", box=None)
    for column in table.columns:
        column.no_wrap = True
    for row in rows:
        table.add_row(
            row["endpoint"],
            row["state"],
            _text(row.get("head")),
            _text(row.get("lag_blocks")),
            _text(row.get("latency_ms")),
            f"{row['error_permille'] / 10:.1f}%" if "error_permille" in row else "-",
            *(_text(row.get(name)) for name in ("disagreements", "omissions")),
        )
    console = Console()
    console.print(table)
    for row in rows:
        if row.get("reason"):
            until = f"is asked last until {row['aside_until']}: " if row["aside_until"] else ""
            console.print(f"{row['endpoint']} {until}{row['reason']}", markup=False)
        if not row["configured"]:
            console.print(f"{row['endpoint']} is not named by environment or flags here", markup=False)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
