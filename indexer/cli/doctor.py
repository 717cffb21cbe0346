"""`reya-indexer doctor`: what should be corrected before, or while, an indexer runs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from indexer import config
from indexer.cli.options import chain_option, data_dir_option, json_option, pg_bin_option, rpc_option, ws_option
from indexer.cli.session import open_url
from indexer.config import Deployment
from indexer.errors import ExitCode
from indexer.ops.doctor.database_checks import examine_database
from indexer.ops.doctor.endpoint_checks import EndpointDoctor, examine_socket
from indexer.ops.doctor.findings import DoctorFinding
from indexer.rpc.pool import display_names
from indexer.runtime import log_setup


@click.command(
    "doctor",
    epilog="\b\nExamples:\n"
    "  reya-indexer doctor --chain reya\n"
    "  reya-indexer doctor --rpc-url https://a.example --rpc-url https://b.example --json\n"
    "  reya-indexer doctor --no-database        # endpoints only",
)
@chain_option
@rpc_option
@ws_option
@click.option("--database/--no-database", default=True, help="Whether to look at the database too.")
@data_dir_option
@pg_bin_option
@json_option
def doctor_command(
    chain: str, rpc_urls: tuple[str, ...], ws_urls: tuple[str, ...], database: bool, data_dir: Path | None,
    pg_bin: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Probe every endpoint and the database, and say what to fix. Changes nothing.

    Endpoints: chain id, tags, block time, clock, batches, logs by hash, receipts, limits, history. Database: version,
    rights, schema, row security and triggers, disk, settings, time zone. Exit code 36 when something must be fixed.
    """
    log_setup.configure("console", quiet=True)
    deployment = config.load(chain)
    rpc, ws = deployment.endpoints("RPC", rpc_urls), deployment.endpoints("WS", ws_urls)
    url = open_url(deployment.name, data_dir, pg_bin) if database else None
    found = asyncio.run(_examined(deployment, rpc, ws, url))
    must = [finding for finding in found if finding.level == "fix"]
    if as_json:
        click.echo(json.dumps({"good": not must, "findings": [asdict(finding) for finding in found]}))
    else:
        _show(found, len(must))
    if must:
        raise click.exceptions.Exit(ExitCode.MUST_FIX)


async def _examined(
    deployment: Deployment, rpc: tuple[str, ...], ws: tuple[str, ...], url: str | None
) -> list[DoctorFinding]:
    doctors = [EndpointDoctor(deployment, u, name) for u, name in zip(rpc, display_names(rpc), strict=True)]
    parts = await asyncio.gather(
        *(doctor.examine() for doctor in doctors),
        *(examine_socket(deployment, u, name) for u, name in zip(ws, display_names(ws), strict=True)),
        *([examine_database(deployment, url)] if url else []),
    )
    found = [finding for part in parts for finding in part]
    if not rpc:
        remedy = f"Set {deployment.env_prefix}_RPC_URL, or give --rpc-url"
        found.append(DoctorFinding("endpoints", "number", "fix", "none is named", remedy))
    elif len(rpc) == 1:
        remedy = "Name a second one of another provider: it takes over, and what only one says is not cross-checked"
        found.append(DoctorFinding("endpoints", "number", "note", "one only", remedy))
    return found + await _compared(doctors)


async def _compared(doctors: list[EndpointDoctor]) -> list[DoctorFinding]:
    """Whether endpoints agree on a block that all of them have and that is final to all."""
    known = [doctor for doctor in doctors if doctor.final is not None]
    if len(known) < 2:
        return []
    number = min(doctor.final.number for doctor in known if doctor.final)
    answers = await asyncio.gather(*(doctor.hash_of(number) for doctor in known))
    hashes = {answer for answer in answers if answer is not None}
    if len(hashes) > 1:
        told = ", ".join(f"{d.found.subject}: {a}" for d, a in zip(known, answers, strict=True) if a is not None)
        remedy = "One of them is on another chain or fork: compare with a block explorer and remove it"
        return [DoctorFinding("endpoints", "agreement", "fix", f"block {number} differs: {told}", remedy)]
    return [DoctorFinding("endpoints", "agreement", "good", f"the same block {number}")]


def _show(found: list[DoctorFinding], must: int) -> None:
    console = Console()
    marks = {"good": "[green]good[/]", "note": "[yellow]note[/]", "fix": "[red]fix[/]"}
    for subject in dict.fromkeys(finding.subject for finding in found):
        table = Table("", "check", "found", "what to do", title_justify="left")
        for one in (f for f in found if f.subject == subject):
            table.add_row(marks[one.level], one.check, _plain(one.said), _plain(one.remedy))
        console.print(subject, markup=False)
        console.print(table)
    console.print(f"{must} to fix" if must else "nothing must be fixed", markup=False)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
