"""`reya-indexer enrich`: read state that is in no log from the contracts, at one final block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from indexer.cli.options import (
    Integer,
    Rate,
    chain_option,
    data_dir_option,
    json_option,
    log_format_option,
    pg_bin_option,
    rpc_option,
)
from indexer.cli.progress_bars import command_bars, stderr_is_terminal
from indexer.cli.report import Report, print_report
from indexer.cli.session import COMMITTED_IS_KEPT, Session, SessionOptions, say_if_interrupted
from indexer.contracts.enrich import KINDS, Enrichment, EnrichResult, missing_keys
from indexer.db.connection import Connection
from indexer.errors import RefusedError, StateUnavailableError
from indexer.runtime import log_setup, signals
from indexer.store import enrichment
from indexer.store.enrichment import EnrichmentRun
from indexer.store.index_state import binding

_ONE_AT_A_TIME = 0x72657961656E72  # Key of the advisory lock: "reyaenr".


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichOptions(SessionOptions):
    """The flags of one run. `rps` caps requests to each endpoint (per second), `most` caps calls."""

    kinds: Sequence[str]
    rps: float
    most: int
    restart: bool


@dataclass(frozen=True, slots=True)
class EnrichEstimate:
    """What a run at a block would cost. `targets`: keys to read, by kind."""

    dry_run: bool
    block: int
    hash: str
    resumed: bool
    targets: Mapping[str, int]
    calls: int
    seconds: int

    def summary(self) -> str:
        """Return the text for people."""
        what = ", ".join(f"{count:,} {kind}" for kind, count in self.targets.items())
        return (
            f"{_at(self.block, self.resumed)}: {what}: {self.calls:,} calls;"
            f" up to --max-calls they take about {self.seconds:,} s"
        )


@dataclass(frozen=True, slots=True)
class EnrichReport:
    """What a run at a block did. `written`: rows by table; `kept`: rows of an application; `left`: targets not read."""

    block: int
    hash: str
    resumed: bool
    calls: int
    written: Mapping[str, int]
    kept: Sequence[str]
    unanswered: Sequence[str]
    left: int

    def summary(self) -> str:
        """Return the text for people."""
        rows = sum(self.written.values())
        lines = [f"{_at(self.block, self.resumed)}: {self.calls:,} calls, {rows:,} rows written"]
        lines += [f"  {table}: {count:,}" for table, count in self.written.items()]
        if self.kept:
            lines.append(f"  left alone, an application's: {', '.join(self.kept[:5])}")
        if self.unanswered:
            lines.append(f"  not answered {len(self.unanswered):,} times, first {self.unanswered[0]}")
        if self.left:
            lines.append(f"  {self.left:,} left: --max-calls is reached; the same command goes on")
        return "\n".join(lines)


def _at(block: int, resumed: bool) -> str:
    return f"at block {block:,}{', resumed' if resumed else ''}"


@click.command(
    "enrich",
    epilog="\b\nExamples:\n"
    "  reya-indexer enrich --dry-run\n"
    "  reya-indexer enrich --only markets --only fees\n"
    "  reya-indexer enrich --rps 20 --max-calls 50000 --json",
)
@chain_option
@rpc_option
@click.option(
    "--only",
    "kinds",
    multiple=True,
    type=click.Choice(list(KINDS)),
    help="Kind of state to read; may be repeated. Default: all.",
)
@click.option("--rps", type=Rate(0, min_open=True), default=10.0, show_default=True, metavar="R",
              help="Maximum requests per second to each endpoint.")  # fmt: skip
@click.option("--max-calls", "most", type=Integer(1), default=10_000, show_default=True, metavar="N",
              help="Maximum number of calls; run the same command again to continue where it stopped.")  # fmt: skip
@click.option("--restart", is_flag=True, help="Start over at the current finalized block.")
@click.option("--dry-run", is_flag=True, help="Show how many calls would be made; make none and write nothing.")
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def enrich_command(
    chain: str, rpc_urls: tuple[str, ...], kinds: tuple[str, ...], dry_run: bool, log_format: log_setup.LogFormat,
    as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Read state from the contracts that no log contains.

    That is market configuration, fee parameters, fee tiers of owners, pool share prices, token names, and positions
    that no log states. No other command does this. All calls are made at one block, the last finalized one that is
    projected, by its hash; each row names it. A later run replaces the rows of an earlier one. Rows written by an
    application are left alone.
    """
    log_setup.configure(log_format, quiet=stderr_is_terminal())
    options = EnrichOptions.from_click(chain, None if dry_run else rpc_urls, kinds=kinds or list(KINDS), **flags)
    with say_if_interrupted(COMMITTED_IS_KEPT):
        done = signals.run(_enrich(options, dry_run))
    print_report(done, as_json)


async def _enrich(options: EnrichOptions, dry_run: bool) -> Report:
    async with Session(options) as session:
        conn = await session.connect()
        if await binding(conn) is None:
            raise RefusedError("nothing is stored yet", "Start `reya-indexer run` or `backfill` first")
        run = None if options.restart else await enrichment.resumable(conn)
        if run is None:
            run = await enrichment.pin_block(conn)
        if dry_run:
            return await _estimate(conn, run, options)
        if not await conn.fetchval("SELECT pg_try_advisory_lock($1)", _ONE_AT_A_TIME):
            raise RefusedError("another `enrich` is running on this database", "Wait until it finishes")
        pool = await session.open_pool(options.rps)
        bar = session.enter_context(command_bars())
        tasks = {kind: bar.add_task(kind, total=None) for kind in options.kinds}

        def on_progress(kind: str, done: int, total: int) -> None:
            bar.update(tasks[kind], completed=done, total=total)

        work = Enrichment(options.deployment, pool, conn, options.kinds, options.most, on_progress)
        try:
            return _report(await work.run(run))
        except StateUnavailableError as error:
            if run.resumed:  # Its block is as old as the interrupted run: nodes may have pruned its state.
                error.remedy += "; or start over at the current finalized block with --restart"
            raise


async def _estimate(conn: Connection, run: EnrichmentRun, options: EnrichOptions) -> EnrichEstimate:
    already_read = await enrichment.already_read(conn, run)
    targets = {name: len(await missing_keys(conn, KINDS[name], already_read)) for name in options.kinds}
    calls = sum(count * KINDS[name].calls for name, count in targets.items())
    seconds = round(min(calls, options.most) / options.rps)
    return EnrichEstimate(True, run.number, "0x" + run.hash.hex(), run.resumed, targets, calls, seconds)


def _report(done: EnrichResult) -> EnrichReport:
    run = done.run
    return EnrichReport(
        run.number, "0x" + run.hash.hex(), run.resumed, done.calls, done.written, done.left_alone, done.unanswered,
        done.left,
    )  # fmt: skip
