"""`reya-indexer reproject`: project the stored raw logs to the public tables again."""

from __future__ import annotations

from typing import Any

import click

from indexer.cli.options import (
    Integer,
    chain_option,
    data_dir_option,
    json_option,
    log_format_option,
    pg_bin_option,
)
from indexer.cli.progress_bars import command_bars, stderr_is_terminal
from indexer.cli.report import report_json
from indexer.cli.session import COMMITTED_IS_KEPT, Session, SessionOptions, say_if_interrupted
from indexer.projector.reproject import Reprojection, ReprojectResult
from indexer.projector.step import StepResult
from indexer.runtime import log_setup, signals
from indexer.runtime.tuning import BULK, tune_gc, tune_thread_switching
from indexer.store.index_state import binding, load_index_state


@click.command(
    "reproject",
    epilog="\b\nExamples:\n"
    "  reya-indexer reproject\n"
    "  reya-indexer reproject --event AccountOwnerUpdated\n"
    "  reya-indexer reproject --from 120000000 --event PassivePerpMatchOrder --json",
)
@chain_option
@click.option("--from", "first", type=Integer(0), metavar="N", help="Only events from block N on.")
@click.option("--event", "events", multiple=True, metavar="NAME", help="Only events with this name; may be repeated.")
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def reproject_command(
    chain: str, first: int | None, events: tuple[str, ...], log_format: log_setup.LogFormat, as_json: bool, **flags: Any
) -> None:
    """Decode and project stored raw logs again, without endpoints.

    Use it after a projection was corrected, or to be sure. Without options, the tables are emptied and projected again
    in whole transactions; if interrupted, run the same command again to continue. With --from or --event, only those
    events and what they affect are replayed, in one transaction that readers see all at once. A running daemon pauses
    meanwhile.
    """
    log_setup.configure(log_format, quiet=stderr_is_terminal())
    tune_gc(BULK)
    tune_thread_switching()
    options = SessionOptions.from_click(chain, None, **flags)
    with say_if_interrupted(COMMITTED_IS_KEPT):
        done = signals.run(_reproject(options, first, events))
    click.echo(report_json(done) if as_json else _summary(done))


async def _reproject(options: SessionOptions, first: int | None, events: tuple[str, ...]) -> ReprojectResult:
    deployment = options.deployment
    async with Session(options) as session:
        conn, side = await session.connect(), await session.connect()
        bar = session.enter_context(command_bars())
        addresses = [c.address for c in deployment.contracts]
        goal = (await load_index_state(conn, addresses)).contiguous_end if await binding(conn) is not None else 0
        task = bar.add_task("projected", total=max(goal, 1))

        def on_commit(step: StepResult) -> None:
            bar.update(task, completed=step.last)

        return await Reprojection(deployment, conn, side, on_commit).run(first, events)


def _summary(done: ReprojectResult) -> str:
    how = "all tables" if done.whole else "in one transaction what these events touch"
    return (
        f"projected again, {how}{', resumed' if done.resumed else ''}:"
        f" {done.events:,} events, {done.rows:,} rows, up to block {done.last:,}"
    )
