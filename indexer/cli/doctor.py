"""`reya-indexer doctor`: find what should be fixed before, or while, an indexer runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from indexer import config
from indexer.cli.options import chain_option, data_dir_option, json_option, pg_bin_option, rpc_option, ws_option
from indexer.cli.session import open_url
from indexer.config import Deployment
from indexer.exit_codes import ExitCode
from indexer.ops.doctor.database_checks import examine_database
from indexer.ops.doctor.endpoint_checks import EndpointDoctor, examine_socket
from indexer.ops.doctor.findings import DoctorFinding
from indexer.ops.doctor.host_checks import examine_host
from indexer.rpc.health import LAG_BLOCKS, LAG_SECONDS
from indexer.rpc.pool import display_names
from indexer.runtime import log_setup, signals


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
@click.option("--database/--no-database", default=True, help="Check the database too, or endpoints only.")
@data_dir_option
@pg_bin_option
@json_option
def doctor_command(
    chain: str, rpc_urls: tuple[str, ...], ws_urls: tuple[str, ...], database: bool, data_dir: Path | None,
    pg_bin: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Probe every endpoint and the database, and report what to fix. Changes nothing.

    Endpoints: chain id, tags, block time, clock, lag, batches, logs by hash, times in logs, receipts, hashes of headers
    and roots of receipts, limits, history, WebSocket. Database: version, permissions, schema, row security, triggers,
    keys and columns of others, publications, disk, settings, time zone. Machine: PG variables, proxies, limits, room
    for the log, systemd. Exits with 36 if something must be fixed.
    """
    log_setup.configure("console", quiet=True)
    deployment = config.load(chain)
    rpc, ws = deployment.endpoints("RPC", rpc_urls), deployment.endpoints("WS", ws_urls)
    url = open_url(deployment.name, data_dir, pg_bin) if database else None
    findings = signals.run(_examine(deployment, rpc, ws, url))
    must_fix = [finding for finding in findings if finding.level == "fix"]
    if as_json:
        click.echo(json.dumps({"good": not must_fix, "findings": [_as_json(finding) for finding in findings]}))
    else:
        _show(findings, len(must_fix))
    if must_fix:
        raise click.exceptions.Exit(ExitCode.MUST_FIX)


def _as_json(finding: DoctorFinding) -> dict[str, Any]:
    return {"subject": finding.subject, "check": finding.check, "level": finding.level, "said": finding.detail,
            "remedy": finding.remedy}  # fmt: skip


async def _examine(
    deployment: Deployment, rpc: tuple[str, ...], ws: tuple[str, ...], url: str | None
) -> list[DoctorFinding]:
    doctors = [EndpointDoctor(deployment, u, name) for u, name in zip(rpc, display_names(rpc), strict=True)]
    parts = await asyncio.gather(
        *(doctor.examine() for doctor in doctors),
        *(examine_socket(deployment, u, name) for u, name in zip(ws, display_names(ws), strict=True)),
        *([examine_database(deployment, url)] if url else []),
    )
    findings = [finding for part in parts for finding in part]
    findings += examine_host([*rpc, *ws])
    if not rpc:
        remedy = f"Set {deployment.env_prefix}_RPC_URL, or pass --rpc-url"
        findings.append(DoctorFinding("endpoints", "number", "fix", "none is named", remedy))
    elif len(rpc) == 1:
        remedy = "Name a second one of another provider: it takes over, and what only one says is not cross-checked"
        findings.append(DoctorFinding("endpoints", "number", "note", "one only", remedy))
    if rpc and not ws:
        detail = f"no WebSocket: a new block is seen by polling, up to {deployment.poll_interval:g} s after it is there"
        remedy = f"Set {deployment.env_prefix}_WS_URL, or lower [polling] interval"
        findings.append(DoctorFinding("endpoints", "newHeads", "note", detail, remedy))
    return findings + _lags(doctors) + await _compare(doctors)


def _lags(doctors: list[EndpointDoctor]) -> list[DoctorFinding]:
    """Name the endpoints whose head is behind another's."""
    heads = [(doctor.found.subject, doctor.head) for doctor in doctors if doctor.head is not None]
    best = max((head for _, head in heads), default=None)
    remedy = "It is asked only when no other is left; remove it if it stays behind"
    return [
        DoctorFinding(subject, "lag", "note", f"{best.number - head.number} blocks behind another endpoint", remedy)
        for subject, head in heads
        if best is not None
        and best.number - head.number >= LAG_BLOCKS
        and best.timestamp - head.timestamp >= LAG_SECONDS
    ]


async def _compare(doctors: list[EndpointDoctor]) -> list[DoctorFinding]:
    """Compare the endpoints' hashes of a block that all of them have and call final."""
    known = [doctor for doctor in doctors if doctor.final is not None]
    if len(known) < 2:
        return []
    number = min(doctor.final.number for doctor in known if doctor.final)
    answers = await asyncio.gather(*(doctor.hash_of(number) for doctor in known))
    hashes = {answer for answer in answers if answer is not None}
    if len(hashes) > 1:
        named = ", ".join(f"{d.found.subject}: {a}" for d, a in zip(known, answers, strict=True) if a is not None)
        remedy = "One of them is on another chain or fork: compare with a block explorer and remove it"
        return [DoctorFinding("endpoints", "agreement", "fix", f"block {number} differs: {named}", remedy)]
    return [DoctorFinding("endpoints", "agreement", "good", f"the same block {number}")]


def _show(findings: list[DoctorFinding], must_fix: int) -> None:
    console = Console()
    marks = {"good": "[green]good[/]", "note": "[yellow]note[/]", "fix": "[red]fix[/]"}
    for subject in dict.fromkeys(finding.subject for finding in findings):
        table = Table("", "check", "found", "what to do", title_justify="left")
        for finding in (f for f in findings if f.subject == subject):
            table.add_row(marks[finding.level], finding.check, _plain(finding.detail), _plain(finding.remedy))
        console.print(subject, markup=False)
        console.print(table)
    console.print(f"{must_fix} to fix" if must_fix else "nothing must be fixed", markup=False)


def _plain(text: str) -> str:
    """Escape rich's markup."""
    return text.replace("[", r"\[")
