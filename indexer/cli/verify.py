"""`reya-indexer verify`: attest stored logs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import click
import structlog
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from indexer.attest.attester import Attester, AttestResult
from indexer.attest.backlog import Backlog
from indexer.attest.estimate import estimate
from indexer.attest.evidence import LogDifference
from indexer.chain.ranges import BlockRange, count_blocks
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
from indexer.cli.progress_bars import command_bars, stderr_is_terminal
from indexer.cli.report import print_report
from indexer.cli.session import Session, SessionOptions, check_stored, errors_as_json, say_if_interrupted
from indexer.errors import EpochChangedError, NoSecondEndpointError, RefusedError, ReplacementUnavailableError, RpcError
from indexer.exit_codes import ExitCode
from indexer.ingest.block_proof import no_wait
from indexer.ingest.proof_rules import ProofFailure
from indexer.reorg.recovery import Recovery
from indexer.runtime import log_setup, signals
from indexer.store.attestations import Attested, Grade, summaries
from indexer.store.index_state import IndexState
from indexer.store.provenance import EndpointFault

ASK_FROM = 60.0  # Estimated work longer than this must be confirmed (s).
MAX_LISTED = 100
LINE_INTERVAL_S = 10.0  # Time between log lines (s).

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions(SessionOptions):
    """The flags of one run. Without `first` or `last`, it begins at the origin or ends at finalized."""

    first: int | None
    last: int | None
    grade: Grade
    heal: bool
    again: bool
    attest_rps: float | None

    @property
    def rps(self) -> float:
        """Maximum requests to each endpoint (per second)."""
        return self.attest_rps or self.deployment.attest.rps


@dataclass(frozen=True, slots=True)
class VerifyEstimate:
    """What a run would cost; `hours` and `seconds` say the same. `receipts`: blocks whose receipts are read."""

    from_block: int
    to_block: int
    grade: Grade
    blocks: int
    requests: int
    receipts: int
    seconds: float
    hours: float
    rps: float
    samples: int

    def summary(self) -> str:
        """Return the text for people."""
        receipts = f", receipts of about {self.receipts:,}" if self.grade == "proven" else ""
        return (
            f"{self.grade}: {self.blocks:,} of blocks {self.from_block} to {self.to_block} are left"
            f"{receipts}: about {self.requests:,} requests, {self.hours:g} hours at most"
            f" {self.rps:g} requests a second"
        )


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a run did. `count`: all differences; of lists, the first MAX_LISTED are reported."""

    grade: Grade
    from_block: int
    to_block: int
    finalized: int
    blocks: int
    logs: int
    count: int
    differences: Sequence[LogDifference]
    healed: Sequence[BlockRange]
    blamed: Sequence[EndpointFault]
    left: Sequence[ProofFailure]
    requests: int
    attested: dict[Grade, Attested]

    def summary(self) -> str:
        """Return the text for people."""
        lines = [
            f"block {d.block}: {d.what}" + ("" if d.log_index is None else f", log {d.log_index}")
            for d in self.differences
        ]
        lines += [f"{f.endpoint} {f.what}: block {f.block}, log {f.log_index}" for f in self.blamed]
        lines += [f"block {failure.block} keeps its grade: {failure.detail}" for failure in _first_of_each(self.left)]
        lines += [f"healed: blocks {first} to {last}" for first, last in self.healed]
        lines.append(
            f"{self.grade}: blocks {self.from_block} to {self.to_block}, {self.blocks:,} of them now, with"
            f" {self.logs:,} logs; without a gap up to block {self.attested[self.grade].up_to}"
        )
        return "\n".join(lines)


def _first_of_each(failures: Sequence[ProofFailure]) -> list[ProofFailure]:
    """Return the first failure for each endpoint and reason."""
    first: dict[tuple[str, str], ProofFailure] = {}
    for failure in failures:
        first.setdefault((failure.endpoint, failure.why), failure)
    return list(first.values())


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
    chain: str, rpc_urls: tuple[str, ...], first: int | None, last: int | None, dry_run: bool, yes: bool,
    log_format: log_setup.LogFormat, as_json: bool, **flags: Any,
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
    options = VerifyOptions.from_click(chain, rpc_urls, first=first, last=last, **flags)
    with errors_as_json(as_json), say_if_interrupted(_KEPT):
        if dry_run or not yes:
            planned = signals.run(_estimate(options))
            if dry_run:
                print_report(planned, as_json)
                return
            _ask(planned)
        done = signals.run(_verify(options))
    print_report(done, as_json)
    if done.count and not done.healed:
        raise click.exceptions.Exit(ExitCode.DIFFERENCES)
    if done.left:
        raise click.exceptions.Exit(ExitCode.UNATTESTED)


def _ask(planned: VerifyEstimate) -> None:
    if planned.seconds <= ASK_FROM:
        return
    click.echo(planned.summary(), err=True)
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
    async with Session(options) as session:
        pool, conn = await session.open_pool(rps), await session.connect()
        yield VerifyRun(options, Recovery(options.deployment, pool, conn))


async def _estimate(options: VerifyOptions) -> VerifyEstimate:
    # A handful of samples needs no cap, and the waits of a cap would be measured instead of the endpoint.
    async with _open_run(options, None) as verification:
        state = await verification.open()
        todo = list(verification.backlog.remaining(state, verification.first, verification.last))
        conn, pool = verification.recovery.conn, verification.recovery.pool
        try:
            costs = await estimate(conn, pool, todo, options.grade, options.rps)
        except RpcError as error:
            raise _unserved(error) from error
        return VerifyEstimate(verification.first, verification.last, **costs)


async def _verify(options: VerifyOptions) -> VerifyReport:
    async with _open_run(options, options.rps) as verification:
        state = await verification.open()
        total = AttestResult(verification.first, verification.last)
        blocks = count_blocks(verification.backlog.remaining(state, total.first, total.last))
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks"),
            TimeRemainingColumn(), TextColumn("{task.fields[logs]:,} logs, {task.fields[requests]:,} requests"),
        )  # fmt: skip
        with command_bars(*columns) as bar:
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


async def _report(verification: VerifyRun, total: AttestResult) -> VerifyReport:
    options, conn = verification.options, verification.recovery.conn
    state = await verification.recovery.state()
    addresses = [c.address for c in options.deployment.contracts]
    return VerifyReport(
        grade=options.grade,
        from_block=total.first,
        to_block=total.last,
        finalized=verification.final,
        blocks=count_blocks(total.attested),
        logs=total.logs,
        count=len(total.differences),
        differences=total.differences[:MAX_LISTED],
        healed=total.healed,
        blamed=total.blamed[:MAX_LISTED],
        left=total.reasons[:MAX_LISTED],
        requests=verification.recovery.pool.requests,
        attested=await summaries(conn, addresses, state.binding.origin),
    )
