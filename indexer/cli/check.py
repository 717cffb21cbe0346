"""`reya-indexer check`: verify that the rows are what they must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
from rich.progress import Progress as Bar

from indexer.check import recompute
from indexer.check.invariants import INVARIANTS
from indexer.check.position_replay import Drift, Reconciliation
from indexer.cli.options import (
    Integer,
    Rate,
    chain_option,
    data_dir_option,
    json_option,
    log_format_option,
    pg_bin_option,
)
from indexer.cli.progress_bars import command_bars, stderr_is_terminal
from indexer.cli.report import OMIT_NONE, print_report
from indexer.cli.session import Session, SessionOptions, say_if_interrupted
from indexer.config import Deployment
from indexer.db.connection import DAY_S, Connection, patient
from indexer.errors import RefusedError
from indexer.exit_codes import ExitCode
from indexer.projector.writer import Writer
from indexer.runtime import log_setup, signals
from indexer.store.index_state import IndexState, binding, load_index_state

if TYPE_CHECKING:
    from indexer.check.contract_state import Answers, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions(SessionOptions):
    """The flags of one check. `views`: rows of each kind to compare with the contracts' views, given an endpoint."""

    sample: int
    recompute: bool
    strict: bool
    views: int
    rps: float | None


@dataclass(frozen=True, slots=True)
class PositionsReport:
    """What the replay of all positions compared. `examples`: the first contradictions."""

    followed: int
    statements: int
    sessions: int
    markets: int
    contradictions: int
    examples: Sequence[Drift]


@dataclass(frozen=True, slots=True)
class ViewsReport:
    """What was compared with the contracts at one block. `unanswered`: one line per refused call."""

    block: int
    hash: str
    compared: int
    unanswered: Sequence[str]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was compared and found up to a block. `whole`: every row was compared with the raw logs, not a sample."""

    block: int
    identities: int
    rows_compared: int
    whole: bool
    drifts: Sequence[Drift]
    positions: PositionsReport
    views: ViewsReport | None = field(metadata=OMIT_NONE)

    def summary(self) -> str:
        """Return the text for people."""
        what, notes = self._compared(), self._notes()
        if not self.drifts:
            return "\n".join([f"clean up to block {self.block:,}: {what}", *notes])
        shown = [f"  {d.check}: {d.subject}: {d.detail}" for d in self.drifts[:20]]
        more = len(self.drifts) - len(shown)
        return "\n".join(
            [f"{len(self.drifts)} drifts up to block {self.block:,} ({what}):", *shown]
            + ([f"  and {more} more"] if more else [])
            + notes
            + ["All are in indexer.drift. `reproject` makes the rows again, `reorg verify` checks the raw logs"]
        )

    def _compared(self) -> str:
        positions, views = self.positions, self.views
        what = (
            f"{self.identities} identities, {self.rows_compared:,} rows against the raw logs,"
            f" {positions.followed:,} positions ({positions.statements:,} statements,"
            f" {positions.sessions:,} closed sessions, open interest of {positions.markets} markets)"
        )
        if views is not None:
            what += f", {views.compared} rows against the contracts at block {views.block:,}"
            what += f" ({len(views.unanswered)} not answered)" if views.unanswered else ""
        return what

    def _notes(self) -> list[str]:
        positions = self.positions
        if not positions.contradictions:
            return []
        first = positions.examples[0]
        return [
            f"  {positions.contradictions:,} statements of the chain do not follow from earlier ones (first:"
            f" position {first.subject}, {first.detail}): PnL of these sessions is not proven. --strict makes"
            " them drift"
        ]


@click.command(
    "check",
    epilog="\b\nExamples:\n"
    "  reya-indexer check\n"
    "  reya-indexer check --sample 20000 --json\n"
    "  reya-indexer check --recompute --strict\n"
    "  reya-indexer check --rpc-url https://archive.example --views 500 --rps 20",
)
@chain_option
@click.option("--sample", type=Integer(0), default=1_000, show_default=True, metavar="N",
              help="Compare the rows of about N random logs with what the logs yield.")  # fmt: skip
@click.option("--recompute", is_flag=True, help="Compare every row with the projection of all stored raw logs.")
@click.option("--strict", is_flag=True, help="Also count contradictions between the chain's own statements as drift.")
@click.option("--rpc-url", "rpc_urls", multiple=True, metavar="URL",
              help="Also query the contracts at the last finalized block: owners, collateral, positions.")  # fmt: skip
@click.option("--views", type=Integer(1), default=100, show_default=True, metavar="N",
              help="With --rpc-url: number of random rows of each kind.")  # fmt: skip
@click.option("--rps", type=Rate(0, min_open=True), metavar="R", help="Maximum requests per second.")
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def check_command(
    chain: str, rpc_urls: tuple[str, ...], log_format: log_setup.LogFormat, as_json: bool, **flags: Any
) -> None:
    """Check the tables against each other and the stored raw logs.

    With --rpc-url, also against the contracts. Every position is replayed through its executions, auto-deleveraging,
    and the chain's own statements; PnL of closed sessions, open interest, and the number of executions must agree.
    Changes no table: it reads one snapshot, so a daemon may run meanwhile. Findings are written to indexer.drift, and
    the exit code is 33.
    """
    log_setup.configure(log_format, quiet=stderr_is_terminal())
    options = CheckOptions.from_click(chain, rpc_urls or None, **flags)
    with say_if_interrupted("nothing was changed"):
        done = signals.run(_check(options))
    print_report(done, as_json)
    if done.drifts:
        raise click.exceptions.Exit(ExitCode.DRIFT)


async def _check(options: CheckOptions) -> CheckReport:
    async with Session(options) as session:
        conn = await session.connect()
        if await binding(conn) is None:
            raise RefusedError("nothing is stored yet", "Start `reya-indexer run` or `backfill` first")
        bar = session.enter_context(command_bars())
        await conn.execute("SET statement_timeout = 0")
        session.enter_context(patient(conn, DAY_S))
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            writer, state = await _current(conn, options.deployment)
            followed, rows, drifts = await _rows(conn, writer, state, options, bar)
            sample = await _draw_sample(conn, options.views) if options.endpoints else None
        views = None
        if sample is not None:
            # Views are called after the snapshot is closed: a slow endpoint must not keep it open.
            answers = await _ask(session, options, sample, bar)
            drifts += answers.drifts
            views = ViewsReport(sample.number, "0x" + sample.hash.hex(), answers.compared, answers.unanswered)
        if options.strict:
            drifts += followed.contradictions
        last = state.next_block - 1
        if drifts:
            await recompute.record_drift(conn, drifts, last)
    return CheckReport(last, len(INVARIANTS), rows, options.recompute, drifts, _positions(followed), views)


async def _current(conn: Connection, deployment: Deployment) -> tuple[Writer, IndexState]:
    """Return the writer whose projection is compared, and the index state. Raises RefusedError if they do not fit."""
    writer, state = Writer(deployment), await load_index_state(conn, [c.address for c in deployment.contracts])
    if not writer.projection_is_current(state):
        raise RefusedError(
            "contracts, ABIs or projections changed since the tables were written",
            "Project them again first: `reya-indexer run` or `reya-indexer reproject`",
        )
    return writer, state


async def _rows(
    conn: Connection, writer: Writer, state: IndexState, options: CheckOptions, bar: Bar
) -> tuple[Reconciliation, int, list[Drift]]:  # fmt: skip
    """Run the checks that need only the database; return positions, rows compared with raw logs (count), and drifts."""
    last = max(state.next_block - 1, 1)
    task = bar.add_task("identities", total=len(INVARIANTS))
    drifts = await recompute.find_violations(conn, lambda name: bar.update(task, advance=1, description=name))
    positions_task = bar.add_task("positions", total=last)
    followed, more = await recompute.reconcile_positions(
        conn, writer, state, lambda block: bar.update(positions_task, completed=block)
    )
    drifts += more
    if options.recompute:
        rows_task = bar.add_task("rows against raw logs", total=last)
        rows, more = await recompute.recompute(
            conn, writer, state, lambda block: bar.update(rows_task, completed=block)
        )
    else:
        rows, more = await recompute.sample(conn, writer, state, options.sample)
    return followed, rows, drifts + more


async def _draw_sample(conn: Connection, views: int) -> Sample:
    from indexer.check import contract_state  # Imported here: web3 is slow to import and seldom needed.

    return await contract_state.draw_sample(conn, views)


async def _ask(session: Session, options: CheckOptions, sample: Sample, bar: Bar) -> Answers:
    from indexer.check import contract_state

    task = bar.add_task(f"views at block {sample.number}", total=sum(map(len, sample.rows.values())))
    pool = await session.open_pool(options.rps)
    return await contract_state.compare(options.deployment, pool, sample, lambda: bar.update(task, advance=1))


def _positions(followed: Reconciliation) -> PositionsReport:
    counted, found = followed.counted, followed.contradictions
    return PositionsReport(
        len(followed.positions), counted.compared, counted.sessions, counted.markets, counted.contradictions, found[:20]
    )
