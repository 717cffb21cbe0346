"""`reya-indexer status`: show the index state, and how far it is behind the chain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from indexer import config
from indexer.cli.options import chain_option, data_dir_option, json_option, pg_bin_option, rpc_option
from indexer.cli.session import open_url
from indexer.ops.status import status
from indexer.runtime import log_setup, signals


@click.command("status", epilog="\b\nExample:\n  reya-indexer status --chain reya --json | jq .lag_blocks")
@chain_option
@rpc_option
@data_dir_option
@pg_bin_option
@json_option
def status_command(
    chain: str, rpc_urls: tuple[str, ...], data_dir: Path | None, pg_bin: Path | None, as_json: bool
) -> None:
    """Show progress, coverage and gaps, lag, rows, and incidents.

    Progress: head, safe, finalized, ingested, and projected block. The head comes from the endpoints; without one, or
    if none answers, it is unknown and the rest is shown.
    """
    log_setup.configure("console", quiet=True)
    deployment = config.load(chain)
    url = open_url(deployment.name, data_dir, pg_bin)
    answer = signals.run(status(deployment, url, deployment.endpoints("RPC", rpc_urls)))
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _show(answer)


def _show(answer: dict[str, Any]) -> None:
    console = Console()
    summary = Table(show_header=False, box=None)
    if unproven := answer.get("unproven"):
        answer["unproven"] = f"{unproven['positions']} positions, since an unread log in block {unproven['from_block']}"
    if head_proof := answer.get("head_proof"):
        answer["head_proof"] = _head_proof(head_proof)
    for key, value in answer.items():
        if key == "attested":
            for grade, attested in value.items():
                summary.add_row(grade, _attested(attested))
        elif key not in ("coverage", "rows", "incidents") and (key, value) != ("bound", True):
            summary.add_row(key.replace("_", " "), _shown(key, value))
    console.print(summary)
    if not answer["bound"]:
        return
    coverage = Table("contract", "covered blocks", "gaps", title="Coverage", title_justify="left")
    for entry in answer["coverage"]:
        coverage.add_row(entry["contract"], _spans(entry["covered"]), _spans(entry["gaps"]))
    console.print(coverage)
    rows = Table("table", "rows", title="Rows", title_justify="left")
    for name, count in answer["rows"].items():
        rows.add_row(name, f"{'~' if count['estimated'] else ''}{count['rows']:,}")
    console.print(rows)
    incidents = Table("incident", "subject", "count", "blocks", "detail", title="Open incidents", title_justify="left")
    for incident in answer["incidents"]:
        incidents.add_row(
            incident["kind"],
            incident["subject"],
            str(incident["count"]),
            _spans([[incident["first_block"], incident["last_block"]]]),
            incident["detail"],
        )
    console.print(incidents if answer["incidents"] else "No open incidents.")


def _shown(key: str, value: Any) -> str:
    """Return a value for people; one that is not known says why."""
    if key == "bound":
        return "not yet: the first `run` or `backfill` binds an empty database to the deployment"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items()) or "none"
    if value is None:
        return "unknown: no endpoint is named, or none answered" if key in _OF_HEADS else "none yet"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value) or "none"


_OF_HEADS = ("head", "safe", "finalized", "lag_blocks", "lag_seconds")


def _attested(grade: dict[str, Any]) -> str:
    newest = f", newest {_spans([grade['newest']])}" if grade["newest"] else ""
    return f"up to {'-' if grade['up_to'] is None else grade['up_to']}{newest}, {grade['blocks']} blocks"


def _head_proof(head_proof: dict[str, int | None]) -> str:
    if head_proof["newest"] is None:
        return "-"
    lag = head_proof["lag_blocks"]
    behind = "" if lag is None else f", {lag} blocks behind the head"
    return f"up to {head_proof['newest']}{behind}; {head_proof['unproven']} blocks above finalized lack a proof"


def _spans(spans: list[list[int]]) -> str:
    shown = ", ".join(f"{first} to {last}" for first, last in spans[:5])
    return shown + (f", and {len(spans) - 5} more" if len(spans) > 5 else "") or "none"
