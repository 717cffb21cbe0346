"""`reya-indexer reorg plan|recover|verify`: recovery by hand, if the daemon refuses to recover or to be sure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from indexer.attest.compare import compare_stored, ranges
from indexer.attest.evidence import Comparison, LogDifference
from indexer.cli.options import (
    Integer,
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
from indexer.cli.progress_bars import command_bars
from indexer.cli.report import OMIT_NONE, print_report, report_json
from indexer.cli.session import Session, SessionOptions, check_stored, errors_as_json
from indexer.exit_codes import ExitCode
from indexer.projector.step import StepResult
from indexer.reorg.heal import heal_trusted
from indexer.reorg.plan import Plan
from indexer.reorg.recovery import Recovery
from indexer.runtime import log_setup, signals
from indexer.store.index_state import IndexState

MAX_LISTED = 100
T = TypeVar("T")

to_block_option = click.option(
    "--to-block", type=Integer(0), metavar="N", help="Last block to keep. Default: the fork point."
)


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A plan as `plan` and `recover --dry-run` show it, who set `dry_run`. `tables`: counts by table and name."""

    dry_run: bool | None = field(metadata=OMIT_NONE)
    plan_hash: str
    fork_point: int
    to_block: int
    to_block_hash: str
    nothing_to_do: bool
    below_finalized: bool
    tables: Mapping[str, Mapping[str, int]]
    exact: bool
    tip: int
    new_tip: int
    checkpoint: Mapping[str, int | None]
    epoch: int
    endpoint: str
    endpoints: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What `recover` did. `rows`: by table; `logs`: read again; `tip`, `projected`: of the index afterwards."""

    dry_run: bool
    plan_hash: str
    fork_point: int
    to_block: int
    changed: bool
    rows: Mapping[str, int]
    logs: int
    tip: int | None
    projected: int | None
    epoch: int

    def summary(self) -> str:
        """Return the text for people."""
        if not self.changed:
            return _NOTHING_TO_DO
        return (
            f"recovered: kept block {self.to_block}, read {self.logs} logs again, projected up to"
            f" {self.projected}; `reya-indexer reorg list` has the entry"
        )


@dataclass(frozen=True, slots=True)
class HealedRange:
    """Blocks that were read again, and the rows that changed with them, by table."""

    from_block: int
    to_block: int
    rows: Mapping[str, int]


@dataclass(slots=True)
class ComparisonReport:
    """What `verify` compared and healed. `clamped`: blocks above finalized were left out. `count`: all differences."""

    from_block: int
    to_block: int
    clamped: bool
    logs: int = 0
    count: int = 0
    differences: list[LogDifference] = field(default_factory=list)
    healed: list[HealedRange] = field(default_factory=list)

    def add(self, part: Comparison) -> None:
        """Add a compared range; only the first MAX_LISTED differences are kept."""
        self.logs += len(part.read)
        self.count += len(part.differences)
        self.differences += part.differences[: MAX_LISTED - len(self.differences)]


_NOTHING_TO_DO = "Nothing to do: the stored chain is the endpoints' chain."


def _run(work: Callable[[Recovery], Awaitable[T]], as_json: bool, **flags: Any) -> T:
    """Run work on the database and the endpoints that the flags name. A failure is reported as JSON, too."""

    async def run() -> T:
        options = SessionOptions.from_click(**flags)
        async with Session(options) as session:
            pool, conn = await session.open_pool(), await session.connect()
            return await work(Recovery(options.deployment, pool, conn))

    with errors_as_json(as_json):
        return signals.run(run())


@click.command(
    "plan",
    epilog="\b\nExamples:\n  reya-indexer reorg plan\n"
    "  reya-indexer reorg plan --to-block 1200000 --json | jq -r .plan_hash",
)
@chain_option
@to_block_option
@rpc_option
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def plan_command(
    chain: str, to_block: int | None, log_format: log_setup.LogFormat, as_json: bool, **flags: Any
) -> None:
    """Show what `recover` would do, and change nothing.

    Compares the stored chain with every endpoint, however deep they diverge, and reads the replacement to count its
    rows. Exits with 0 whenever a plan could be made.
    """
    log_setup.configure(log_format)

    async def work(recovery: Recovery) -> PlanReport:
        return await _plan_report(recovery, await recovery.plan(to_block))

    report = _run(work, as_json, chain=chain, **flags)
    click.echo(report_json(report)) if as_json else _print_plan(report, chain, to_block)


async def _plan_report(recovery: Recovery, plan: Plan, dry_run: bool | None = None) -> PlanReport:
    state = await recovery.state()
    tables, exact = await recovery.count_changes(plan)
    before = state.checkpoint.number if state.checkpoint else None
    after = before
    if before is not None and not plan.empty:
        after = plan.upto if before > plan.keep.number else before
    return PlanReport(
        dry_run=dry_run,
        plan_hash=plan.plan_hash,
        fork_point=plan.fork.number,
        to_block=plan.keep.number,
        to_block_hash="0x" + plan.keep.hash.hex(),
        nothing_to_do=plan.empty,
        below_finalized=state.predates_before_images(plan.keep.number),
        tables=tables,
        exact=exact,
        tip=plan.tip.number,
        new_tip=plan.upto,
        checkpoint={"before": before, "after": after},
        epoch=state.epoch,
        endpoint=plan.endpoint,
        endpoints=[report.as_json() for report in plan.reports],
    )


def _print_plan(plan: PlanReport, chain: str, to_block: int | None) -> None:
    console = Console()
    for report in plan.endpoints:
        where = report["error"] or f"head {report['head']}, on the stored chain up to block {report['fork_point']}"
        console.print(f"{report['endpoint']}: {where}", highlight=False)
    console.print(f"fork point      {plan.fork_point}")
    console.print(f"last block kept {plan.to_block}  {plan.to_block_hash}")
    console.print(f"tip             {plan.tip} -> {plan.new_tip}")
    console.print(f"checkpoint      {plan.checkpoint['before']} -> {plan.checkpoint['after']}")
    if plan.nothing_to_do:
        console.print(_NOTHING_TO_DO)
        return
    table = Table("table", "removed", "inserted", "difference")
    for name, counts in plan.tables.items():
        table.add_row(name, str(counts["removed"]), str(counts["inserted"]), f"{counts['difference']:+d}")
    console.print(table)
    if plan.below_finalized:
        console.print("Below finalized: touched rows are replayed from their first event; state counts are estimates.")
    kept = f" --to-block {to_block}" if to_block is not None else ""
    click.echo(f"To execute it: reya-indexer reorg recover --chain {chain}{kept} --confirm {plan.plan_hash}")


@click.command(
    "recover",
    epilog="\b\nExamples:\n  reya-indexer reorg recover --confirm 5f0c...\n"
    "  reya-indexer reorg recover --to-block 1200000 --confirm 5f0c... --dry-run",
)
@chain_option
@to_block_option
@click.option("--confirm", metavar="PLAN_HASH", required=True, help="Plan hash that `reorg plan` printed.")
@click.option("--dry-run", is_flag=True, help="Check the hash and show what would be done; change nothing.")
@rpc_option
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def recover_command(
    chain: str, to_block: int | None, confirm: str, dry_run: bool, log_format: log_setup.LogFormat, as_json: bool,
    **flags: Any,
) -> None:  # fmt: skip
    """Execute exactly the confirmed plan, in one commit. A running daemon pauses meanwhile.

    Exits with 0 if it succeeded or there was nothing to do, 31 if the plan is no longer the confirmed one or another
    process is at work, 32 if no endpoint serves the blocks. Whatever the code, nothing is left half done.
    """
    log_setup.configure(log_format)

    if dry_run:

        async def check(recovery: Recovery) -> PlanReport:
            return await _plan_report(recovery, await recovery.check(to_block, confirm), dry_run=True)

        plan = _run(check, as_json, chain=chain, **flags)
        click.echo(report_json(plan)) if as_json else _print_plan(plan, chain, to_block)
        return

    async def work(recovery: Recovery) -> RecoveryReport:
        return _recovery_report(*await recovery.recover(to_block, confirm), await recovery.state())

    print_report(_run(work, as_json, chain=chain, **flags), as_json)


def _recovery_report(plan: Plan, result: StepResult | None, state: IndexState) -> RecoveryReport:
    return RecoveryReport(
        dry_run=False,
        plan_hash=plan.plan_hash,
        fork_point=plan.fork.number,
        to_block=plan.keep.number,
        changed=result is not None,
        rows=result.rows if result else {},
        logs=result.logs if result else 0,
        tip=state.tip.number if state.tip else None,
        projected=state.checkpoint.number if state.checkpoint else None,
        epoch=state.epoch,
    )


@click.command(
    "verify",
    epilog="\b\nExamples:\n  reya-indexer reorg verify --from 1000000 --to 1100000\n"
    "  reya-indexer reorg verify --heal --json",
)
@chain_option
@first_option
@last_option
@click.option(
    "--heal", is_flag=True, help="Read the differing blocks again, and correct every row that depends on them."
)
@rpc_option
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def verify_command(
    chain: str, first: int | None, last: int | None, heal: bool, log_format: log_setup.LogFormat, as_json: bool,
    **flags: Any,
) -> None:  # fmt: skip
    """Compare stored block hashes and raw logs with the chain.

    Goes up to finalized. Exits with 0 if everything matches or was healed, 30 if differences were found, 32 if no
    endpoint serves the range. It trusts the endpoint's answers: a log that a node omits also looks like one that is not
    on the chain.
    """
    log_setup.configure(log_format)
    check_order(first, last)

    async def work(recovery: Recovery) -> ComparisonReport:
        return await _verify(recovery, first, last, heal)

    report = _run(work, as_json, chain=chain, **flags)
    click.echo(report_json(report)) if as_json else _print_compared(report, chain)
    if report.count and not heal:
        raise click.exceptions.Exit(ExitCode.DIFFERENCES)


async def _verify(recovery: Recovery, first: int | None, last: int | None, heal: bool) -> ComparisonReport:
    state = await recovery.state()
    assert state.tip is not None
    final = min((await recovery.look()).finalized, state.tip.number)
    low = state.binding.origin if first is None else first
    high = final if last is None else min(last, final)
    check_stored(low, high)
    report = ComparisonReport(low, high, clamped=last is not None and last > final)
    differing: list[Comparison] = []
    with command_bars(transient=True) as bar:
        task = bar.add_task("compared", total=max(1, high - low + 1))
        async for part in compare_stored(recovery.conn, recovery.pool, state, low, high):
            bar.update(task, completed=part.segment.last - low + 1)
            report.add(part)
            differing += [part] if part.differences else []
    for part in differing if heal else []:
        for segment in ranges(part.segment, part.differences):
            cause = f"reorg verify found {len(part.differences)} differences"
            result = await heal_trusted(recovery, segment, cause)
            report.healed.append(HealedRange(segment.first, segment.last, result.rows))
    return report


def _print_compared(report: ComparisonReport, chain: str) -> None:
    span = f"blocks {report.from_block} to {report.to_block}"
    if report.clamped:
        click.echo(f"blocks above finalized ({report.to_block}) are the daemon's; left out", err=True)
    if not report.count:
        click.echo(f"{span}: {report.logs} logs, all as on the chain")
        return
    for difference in report.differences:
        index = "" if difference.log_index is None else f", log {difference.log_index}"
        click.echo(f"block {difference.block}{index}: {difference.what}")
    if report.count > len(report.differences):
        click.echo(f"... and {report.count - len(report.differences)} more")
    if report.healed:
        click.echo(f"{span}: {report.count} differences, healed in {len(report.healed)} ranges")
    else:
        flags = f"--chain {chain} --from {report.from_block} --to {report.to_block}"
        click.echo(f"{span}: {report.count} differences. To heal them: reya-indexer reorg verify {flags} --heal")
