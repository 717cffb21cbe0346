"""`reya-indexer verify`: attest stored logs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from indexer import config
from indexer.attest.attester import Attester, AttestResult
from indexer.attest.backlog import Backlog
from indexer.attest.estimate import estimate
from indexer.chain.ranges import count_blocks
from indexer.cli.options import (
    Rate,
    chain_option,
    check_order,
    data_dir_option,
    first_option,
    json_option,
    last_option,
    log_format_option,
    pg_bin_option,
    rpc_option,
)
from indexer.cli.progress_bars import stderr_is_terminal
from indexer.cli.session import (
    check_stored,
    checked_connection,
    errors_as_json,
    open_pool,
    open_url,
    rpc_endpoints,
    say_if_interrupted,
)
from indexer.config import Deployment
from indexer.errors import (
    EpochChangedError,
    ExitCode,
    NoSecondEndpointError,
    RefusedError,
    ReplacementUnavailableError,
    RpcError,
)
from indexer.ingest.block_proof import no_wait
from indexer.reorg.recovery import Recovery
from indexer.runtime import log_setup, signals
from indexer.runtime.tasks import in_thread
from indexer.store.attestations import Grade, summaries
from indexer.store.index_state import IndexState

ASK_FROM = 60.0  # Estimated work longer than this must be confirmed (s).
MAX_LISTED = 100
LINE_INTERVAL_S = 10.0  # Time between log lines (s).

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """The flags of one run. Without `first` or `last`, it begins at the origin or ends at finalized."""

    deployment: Deployment
    urls: tuple[str, ...]
    data_dir: Path | None
    pg_bin: Path | None
    first: int | None
    last: int | None
    grade: Grade
    heal: bool
    again: bool
    rps: float


_KEPT = "attested blocks stay attested; run the same command again to continue"


@click.command(
    "verify",
    epilog="\b\nExamples:\n"
    "  reya-indexer verify --from 1000000 --to 1100000\n"
    "  reya-indexer verify --grade proven --dry-run\n"
    "  reya-indexer verify --grade proven --attest-rps 50 --yes --json",
)
@chain_option
@first_option
@last_option
@click.option("--grade", type=click.Choice(["cross-checked", "proven"]), default="cross-checked", show_default=True,
              help="Attest by a second endpoint, or by headers and receipts.")  # fmt: skip
@click.option("--heal/--no-heal", default=True, show_default=True, help="Correct logs that are proven wrong.")
@click.option("--again", is_flag=True, help="Include blocks that are already attested.")
@click.option("--attest-rps", type=Rate(0.01, 10_000), metavar="R",
              help="Maximum requests per second to each endpoint. Default: `rps` in [attest].")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Estimate requests and time; write nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation of work that takes more than a minute.")
@rpc_option
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def verify_command(
    chain: str, first: int | None, last: int | None, grade: Grade, heal: bool, again: bool, attest_rps: float | None,
    dry_run: bool, yes: bool, rpc_urls: tuple[str, ...], data_dir: Path | None, pg_bin: Path | None,
    log_format: log_setup.LogFormat, as_json: bool,
) -> None:  # fmt: skip
    """Attest stored raw logs against the chain, up to finalized.

    Stores how far they are attested. cross-checked: an endpoint that did not serve the logs has the same ones. proven:
    headers are hashed and chained to the stored blocks, then a bloom filter rules out the contracts, or all receipts of
    the block match the header's root. Where logs differ, headers and receipts decide which are right; then the stored
    ones are healed, and the endpoint is blamed.

    Ctrl-C keeps what was attested; run the same command again to continue. Exit codes: 0 everything is attested, 30
    logs differ and were not healed, 31 not confirmed, 32 no endpoint (or no second one) serves the range, 34 part of
    the range keeps its grade: `reya-indexer status` shows the incident.
    """
    log_setup.configure(log_format, quiet=stderr_is_terminal())
    check_order(first, last)
    deployment = config.load(chain)
    urls, rps = rpc_endpoints(deployment, rpc_urls), attest_rps or deployment.attest.rps
    options = VerifyOptions(deployment, urls, data_dir, pg_bin, first, last, grade, heal, again, rps)
    with errors_as_json(as_json), say_if_interrupted(_KEPT):
        if dry_run or not yes:
            planned = signals.run(_estimate(options))
            if dry_run:
                click.echo(json.dumps(planned) if as_json else _plan_summary(planned))
                return
            _ask(planned)
        done = signals.run(_verify(options))
    click.echo(json.dumps(done) if as_json else _summary(done))
    if done["count"] and not done["healed"]:
        raise click.exceptions.Exit(ExitCode.DIFFERENCES)
    if done["left"]:
        raise click.exceptions.Exit(ExitCode.UNATTESTED)


def _ask(planned: dict[str, Any]) -> None:
    if planned["seconds"] <= ASK_FROM:
        return
    click.echo(_plan_summary(planned), err=True)
    if not sys.stdin.isatty():
        raise RefusedError("this would take more than a minute", "Pass --yes to confirm, or use a smaller range")
    if not click.confirm("Continue?", err=True):
        raise RefusedError("not confirmed", "Nothing was done")


class VerifyRun:
    """One run of `verify`: the requested blocks, limited to stored and final ones."""

    def __init__(self, options: VerifyOptions, recovery: Recovery) -> None:
        self.options, self.recovery = options, recovery
        attester = Attester(
            options.deployment, recovery.pool, recovery.conn, no_wait, heal=options.heal, finality=recovery.finality
        )
        self.backlog = Backlog(attester, options.grade, again=options.again)
        self.first = self.last = self.final = 0

    async def open(self) -> IndexState:
        """Choose the block range and load the backlog.

        Raises RefusedError when nothing is stored, RpcError when no endpoint answers.
        """
        state = await self.recovery.state()
        assert state.tip is not None
        look = await self.recovery.look()
        # A tag that fails at this look takes nothing back: below the floor everything was final before.
        self.final = min(max(look.finalized, state.floor), state.tip.number)
        if self.final < 0 and look.source == "unknown":
            raise RefusedError(
                f"no block is known to be final: {look.reason}", "Try again later, or ask another endpoint"
            )
        self.first = state.binding.origin if self.options.first is None else self.options.first
        self.last = self.final if self.options.last is None else min(self.options.last, self.final)
        check_stored(self.first, self.last)
        if self.options.grade == "proven":
            # Headers are chained to a stored block above them, so the range must end at a stored block.
            above = await self.recovery.conn.fetchval(
                "SELECT min(number) FROM indexer.block WHERE number BETWEEN $1 AND $2", self.last, self.final
            )
            self.last = self.last if above is None else above
        await self.backlog.refresh()
        return state


@asynccontextmanager
async def _open_run(options: VerifyOptions, rps: float | None) -> AsyncIterator[VerifyRun]:
    async with open_pool(options.deployment, options.urls, rps) as pool:
        url = await in_thread(open_url, options.deployment.name, options.data_dir, options.pg_bin)
        async with checked_connection(url, options.deployment) as conn:
            yield VerifyRun(options, Recovery(options.deployment, pool, conn))


async def _estimate(options: VerifyOptions) -> dict[str, Any]:
    # A handful of samples needs no cap, and the waits of a cap would be measured instead of the endpoint.
    async with _open_run(options, None) as verification:
        state = await verification.open()
        todo = list(verification.backlog.remaining(state, verification.first, verification.last))
        blocks = {"from_block": verification.first, "to_block": verification.last}
        try:
            conn, pool = verification.recovery.conn, verification.recovery.pool
            return blocks | await estimate(conn, pool, todo, options.grade, options.rps)
        except RpcError as error:
            raise _unserved(error) from error


async def _verify(options: VerifyOptions) -> dict[str, Any]:
    async with _open_run(options, options.rps) as verification:
        state = await verification.open()
        total = AttestResult(verification.first, verification.last)
        blocks = count_blocks(verification.backlog.remaining(state, total.first, total.last))
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks"),
            TimeRemainingColumn(), TextColumn("{task.fields[logs]:,} logs, {task.fields[requests]:,} requests"),
        )  # fmt: skip
        with Bar(*columns, console=Console(stderr=True), disable=not stderr_is_terminal()) as bar:
            task = bar.add_task(options.grade, total=max(1, blocks), logs=0, requests=0)

            def on_progress() -> None:
                done = count_blocks((*total.attested, *total.unproven))
                requests = verification.recovery.pool.requests
                bar.update(task, completed=min(done, blocks), logs=total.logs, requests=requests)

            await _drain_backlog(verification, state, total, on_progress)
        return await _report(verification, total)


async def _drain_backlog(
    verification: VerifyRun, state: IndexState, total: AttestResult, on_progress: Callable[[], None]
) -> None:
    """Attest piece by piece until nothing remains, and add each result to `total`."""
    backlog, logged_at = verification.backlog, asyncio.get_running_loop().time()
    while (segment := next(backlog.remaining(state, total.first, total.last), None)) is not None:
        on_progress()
        if asyncio.get_running_loop().time() - logged_at > LINE_INTERVAL_S:
            logged_at = asyncio.get_running_loop().time()
            log.info("verify", grade=backlog.grade, at=segment.first, last=total.last, logs=total.logs)
        try:
            total.add(await backlog.step(state, segment))
        except EpochChangedError:
            pass  # A reorg or heal happened in the meantime: the remaining blocks are looked up again.
        except NoSecondEndpointError:
            raise ReplacementUnavailableError(
                f"no second endpoint for blocks from {segment.first} on: every endpoint that answers served them",
                "Add another endpoint with --rpc-url, or use --grade proven",
            ) from None
        except RpcError as error:
            raise _unserved(error) from error
        state = await verification.recovery.state()
        await backlog.refresh()
    on_progress()


def _unserved(error: RpcError) -> ReplacementUnavailableError:
    return ReplacementUnavailableError(
        f"no endpoint serves the range: {error.message}",
        "Earlier results are stored. Add another endpoint with --rpc-url, and run the same command again to continue",
    )


async def _report(verification: VerifyRun, total: AttestResult) -> dict[str, Any]:
    options, conn = verification.options, verification.recovery.conn
    state = await verification.recovery.state()
    addresses = [c.address for c in options.deployment.contracts]
    grades = await summaries(conn, addresses, state.binding.origin)
    return {
        "grade": options.grade,
        "from_block": total.first,
        "to_block": total.last,
        "finalized": verification.final,
        "blocks": count_blocks(total.attested),
        "logs": total.logs,
        "count": len(total.differences),
        "differences": [d._asdict() for d in total.differences[:MAX_LISTED]],
        "healed": [list(span) for span in total.healed],
        "blamed": [b._asdict() for b in total.blamed[:MAX_LISTED]],
        "left": [c._asdict() for c in total.reasons[:MAX_LISTED]],
        "requests": verification.recovery.pool.requests,
        "attested": {grade: attested._asdict() for grade, attested in grades.items()},
    }


def _plan_summary(planned: dict[str, Any]) -> str:
    receipts = f", receipts of about {planned['receipts']:,}" if planned["grade"] == "proven" else ""
    return (
        f"{planned['grade']}: {planned['blocks']:,} of blocks {planned['from_block']} to {planned['to_block']} are left"
        f"{receipts}: about {planned['requests']:,} requests, {planned['hours']:g} hours at most"
        f" {planned['rps']:g} requests a second"
    )


def _summary(done: dict[str, Any]) -> str:
    lines = [
        f"block {d['block']}: {d['what']}" + ("" if d["log_index"] is None else f", log {d['log_index']}")
        for d in done["differences"]
    ]
    lines += [
        f"{fault['endpoint']} {fault['what']}: block {fault['block']}, log {fault['log_index']}"
        for fault in done["blamed"]
    ]
    lines += [
        f"block {failure['block']} keeps its grade: {failure['detail']}" for failure in _first_of_each(done["left"])
    ]
    lines += [f"healed: blocks {first} to {last}" for first, last in done["healed"]]
    reached = done["attested"][done["grade"]]
    lines.append(
        f"{done['grade']}: blocks {done['from_block']} to {done['to_block']}, {done['blocks']:,} of them now, with"
        f" {done['logs']:,} logs; without a gap up to block {reached['up_to']}"
    )
    return "\n".join(lines)


def _first_of_each(failures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first failure for each endpoint and reason."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for failure in failures:
        first.setdefault((failure["endpoint"], failure["why"]), failure)
    return list(first.values())
