"""`reya-indexer backfill`: ingest a block range up to finalized, and project it as far as it joins the projection."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import structlog

from indexer.chain.finality import FinalityTracker
from indexer.chain.ranges import plan_missing
from indexer.cli.options import (
    Integer,
    Rate,
    chain_option,
    check_order,
    data_dir_option,
    json_option,
    log_format_option,
    pg_bin_option,
    rpc_option,
    verbose_option,
)
from indexer.cli.progress_bars import show_backfill_progress, stderr_is_terminal
from indexer.cli.report import print_report
from indexer.cli.session import (
    COMMITTED_IS_KEPT,
    Session,
    SessionOptions,
    embedded_server,
    prepare_schema,
    say_if_interrupted,
)
from indexer.decode.block_times import time_fields_of
from indexer.embedded_pg.guard import kept_running
from indexer.errors import ConfigError, EndpointUnreachableError
from indexer.follow.catch_up import DEFER_BLOCKS
from indexer.follow.engine_options import EngineOptions
from indexer.follow.runner import Runner
from indexer.ingest.dask_cluster import DaskExecutor
from indexer.ingest.estimate import BackfillEstimate, estimate
from indexer.ingest.process_pool import WorkerPool
from indexer.ingest.worker import WorkerConfig
from indexer.ingest.worker_fork import ForkedWorker, fork_workers
from indexer.rpc.pool import Pool, Traffic
from indexer.runtime import log_setup, signals
from indexer.runtime.progress import DaemonProgress
from indexer.runtime.tasks import background_task
from indexer.runtime.tuning import BULK, tune_gc, tune_thread_switching
from indexer.store.index_state import IndexState

FEW_REQUESTS = 4  # A block range of fewer requests than this starts no worker process.

log = structlog.get_logger()


class _Block(click.ParamType):  # type: ignore[type-arg]  # Generic only in the type stubs.
    """Block number or tag as the value of an option."""

    name = "block"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number or the tag; fail on anything else."""
        if value in ("latest", "safe", "finalized"):
            return str(value)
        if str(value).isdecimal():
            return int(value)
        self.fail(f"{value!r} is neither a block number nor latest, safe or finalized", param, ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillOptions(SessionOptions):
    """The flags of one backfill. `rps`: cap of the requests to each endpoint (per second), of all workers together."""

    first: int
    last: int | str
    workers: int | None
    rps: float | None
    ingest_only: bool
    defer: bool | None
    scheduler: str | None
    log_format: log_setup.LogFormat

    @property
    def cap(self) -> float | None:
        """The flag, or else the deployment's rate; None: no cap."""
        return self.rps or self.deployment.rps

    @property
    def cap_of_each(self) -> float | None:
        """The part of the cap that this process or one worker may use; None: no cap."""
        processes = 1 + (1 if self.workers is None else self.workers)
        return None if self.cap is None else self.cap / processes

    @property
    def max_parallelism(self) -> int:
        """The largest number of worker processes that may be needed, before the block range is known."""
        parallelism = 1 if self.workers is None else self.workers
        # With --ingest-only this process does not project, so a single worker needs no process of its own.
        return 0 if self.scheduler is not None or (self.ingest_only and parallelism == 1) else parallelism

    def parallelism(self, last: int) -> int:
        """Return how many workers ingest up to block `last` outside this process; 0 if this one ingests itself."""
        if self.scheduler is not None:
            return self.workers or 1
        few = last - self.first < FEW_REQUESTS * self.deployment.max_blocks
        return 0 if self.workers is None and few else self.max_parallelism


@dataclass(frozen=True, slots=True)
class BlockGap:
    """Blocks below a backfilled range that are not stored yet; the projection ends before them."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class BackfillReport:
    """What a finished backfill did. `errors`: those of endpoints, by class; all were overcome."""

    from_block: int
    to_block: int
    projected: int | None
    gap: BlockGap | None
    logs: int
    rows: int
    steps: int
    requests: int
    errors: Mapping[str, int]
    seconds: float

    def summary(self) -> str:
        """Return the text for people."""
        first, last, gap = self.from_block, self.to_block, self.gap
        if gap:
            return f"ingested {first} to {last}; projected up to {self.projected}, gap {gap.first} to {gap.last}"
        if not self.steps:
            return f"nothing to do: blocks {first} to {last} are there already"
        errors = ", ".join(f"{n} {name}" for name, n in sorted(self.errors.items()))
        reached = "ingested" if self.projected is None else f"projected up to {self.projected}"
        pace = f"{self.logs / max(self.seconds, 0.01):,.0f} logs/s"
        return (
            f"{reached}: {self.logs:,} logs, {self.rows:,} rows, {self.requests:,} requests in {self.seconds:,.1f} s"
            f" ({pace}); errors met and overcome: {errors or 'none'}"
        )


@click.command(
    "backfill",
    epilog="\b\nExamples:\n"
    "  reya-indexer backfill --from-block 0\n"
    "  reya-indexer backfill --from-block 0 --dry-run\n"
    "  reya-indexer backfill --from-block 0 --workers 4 --rps 50\n"
    "  reya-indexer backfill --from-block 0 --engine dask --scheduler tcp://10.0.0.5:8786 --workers 8\n"
    "  reya-indexer backfill --chain cronos --from-block 1000000 --to-block 2000000 --json",
)
@chain_option
@click.option("--from-block", "first", type=Integer(0), required=True, help="First block of the range.")
@click.option("--to-block", "last", type=_Block(), default="finalized", show_default=True,
              help="Last block: a number, latest, safe, or finalized. Blocks above finalized are left to the"
              " daemon.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0, 256),
              help="Number of ingesting processes besides the one that projects (0: one does both), or of cluster"
              " tasks. Default: 1, or 0 for a range of few requests.")  # fmt: skip
@click.option("--rps", type=Rate(0, min_open=True),
              help="Maximum requests per second to each endpoint, for all workers together.")  # fmt: skip
@click.option("--engine", type=click.Choice(["local", "dask"]), default="local", show_default=True,
              help="Where workers run: on this machine, or on a Dask cluster (extra [dask]).")  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS", help="Address of the Dask scheduler, such as tcp://host:8786.")
@click.option(
    "--ingest-only", is_flag=True, help="Store raw logs only; leave projecting to the process that holds the lease."
)
@click.option("--defer-indexes/--keep-indexes", "defer", default=None,
              help="Build the tables' keys and indexes at the end of an initial load. Default: for 100,000 blocks or"
              " more.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Estimate requests, time, and disk space; write nothing.")
@rpc_option
@data_dir_option
@pg_bin_option
@log_format_option
@verbose_option
@json_option
def backfill_command(
    chain: str, rpc_urls: tuple[str, ...], first: int, last: int | str, engine: str, scheduler: str | None,
    dry_run: bool, log_format: log_setup.LogFormat, verbose: bool, as_json: bool, **flags: Any,
) -> None:  # fmt: skip
    """Ingest a block range and project it up to the first gap.

    Only missing blocks are fetched, so running it again is a no-op. On an empty database, FROM becomes the origin,
    where gapless coverage starts; a range below the origin lowers it, and the tables are projected again from there. A
    range above a gap is only ingested. While a daemon holds the projector's lease, this command ingests, and waits for
    the daemon to project.
    """
    check_order(first, last if isinstance(last, int) else None, ("--from-block", "--to-block"))
    if (engine == "dask") != (scheduler is not None):
        raise click.UsageError("--engine dask and --scheduler ADDRESS must be used together.")
    log_setup.configure(log_format, debug=verbose, quiet=stderr_is_terminal() and not verbose)
    tune_gc(BULK)
    tune_thread_switching()
    options = BackfillOptions.from_click(
        chain, rpc_urls, first=first, last=last, scheduler=scheduler, log_format=log_format, **flags
    )
    if dry_run:
        print_report(signals.run(_estimate(options)), as_json)
        return
    forked = fork_workers(options.max_parallelism)
    with say_if_interrupted(COMMITTED_IS_KEPT):
        report = signals.run_stoppable(partial(_backfill, options, forked))
        if report is None:
            raise KeyboardInterrupt
    print_report(report, as_json)


async def _last_block(pool: Pool, options: BackfillOptions) -> int:
    """Return the last block to ingest, at or below finalized. Raises ConfigError if the range begins above it."""
    heads = await pool.heads()
    finality = FinalityTracker(options.deployment.finality_depth).observe(heads)
    if finality.source == "unknown":
        raise EndpointUnreachableError(
            f"no block is known to be final: {finality.reason}", "Try again, or name an endpoint that serves the tag"
        )
    tags = {"latest": heads.latest.number, "safe": finality.safe, "finalized": finality.finalized}
    wanted = tags[options.last] if isinstance(options.last, str) else options.last
    if options.first > finality.finalized:
        raise ConfigError(
            f"--from-block {options.first} is above the finalized block {finality.finalized} ({finality.source})",
            "Blocks that are not final yet are left to the daemon: `reya-indexer run`",
        )
    if wanted > finality.finalized:
        click.echo(
            f"blocks {finality.finalized + 1} to {min(wanted, heads.latest.number)} are not final yet and left to the"
            f" daemon (`reya-indexer run`); this run ends at block {finality.finalized}",
            err=True,
        )
    return min(wanted, finality.finalized)


async def _estimate(options: BackfillOptions) -> BackfillEstimate:
    async with Session(options) as session:
        pool = await session.open_pool(options.cap)
        last = await _last_block(pool, options)
        url = await session.database_url()
        return await estimate(url, options.deployment, pool, options.first, last, options.workers or 1, options.cap)


async def _backfill(
    options: BackfillOptions, workers: Sequence[ForkedWorker], stop: signals.StopRequest
) -> BackfillReport | None:  # fmt: skip
    """Run the backfill and return its report; None if it was stopped early.

    `workers` were forked before the event loop started.
    """
    progress, started = DaemonProgress(), time.monotonic()
    async with Session(options) as session:
        for worker in workers:
            session.push_async_callback(worker.reap_unused)
        pool = await session.open_pool(options.cap_of_each)
        last = await _last_block(pool, options)
        url = await session.database_url()
        executor = _executor(options, url, options.parallelism(last), workers)
        if executor is not None:
            session.push_async_callback(executor.close)
            await executor.start()
        runner = Runner(options.deployment, url, pool, progress, _engine_options(options, last, executor))
        session.push_async_callback(runner.close)
        runner.stop = stop
        await runner.prepare(partial(prepare_schema, url))
        await runner.open()
        if runner.conn is None:  # It was stopped while it waited for a database or an endpoint.
            return None
        await session.enter_async_context(background_task(runner.watchdog(None).run()))
        await session.enter_async_context(kept_running(embedded_server(options.data_dir, options.pg_bin), stop))

        def traffic() -> Traffic:
            return executor.traffic(pool) if executor else pool.traffic()

        async with show_backfill_progress(progress, traffic, last):
            stop.handled = True
            state = await runner.backfill()
        if state is None or not runner.finished(state):
            return None
        assert not plan_missing(state.coverage, options.first, last)
        return _report(options.first, last, state, progress, traffic(), time.monotonic() - started)


def _engine_options(
    options: BackfillOptions, last: int, executor: WorkerPool | DaskExecutor | None
) -> EngineOptions:  # fmt: skip
    defer_from = {None: DEFER_BLOCKS, True: 0, False: sys.maxsize}[options.defer]
    return EngineOptions(options.first, last, executor, options.ingest_only, defer_from)


def _executor(
    options: BackfillOptions, url: str, parallelism: int, workers: Sequence[ForkedWorker]
) -> WorkerPool | DaskExecutor | None:  # fmt: skip
    """Return the workers' executor; None if this process ingests itself."""
    deployment = options.deployment
    budget = dict(deployment.budgets).get("backfill")
    worker_config = WorkerConfig(
        url, options.endpoints, deployment.chain_id, deployment.max_blocks, time_fields_of(deployment.contracts),
        options.cap_of_each, hand_over=options.scheduler is None and not options.ingest_only,
        log_format=options.log_format, timeout=deployment.rpc_timeout,
        budget=None if budget is None else budget / max(1, parallelism),
    )  # fmt: skip
    if options.scheduler is not None:
        return DaskExecutor(worker_config, options.scheduler, parallelism)
    return WorkerPool(worker_config, parallelism, workers[:parallelism]) if parallelism else None


def _report(
    first: int, last: int, state: IndexState, progress: DaemonProgress, traffic: Traffic, seconds: float
) -> BackfillReport:  # fmt: skip
    return BackfillReport(
        from_block=first,
        to_block=last,
        projected=state.checkpoint.number if state.checkpoint else None,
        gap=BlockGap(state.contiguous_end + 1, first - 1) if state.contiguous_end + 1 < first else None,
        logs=progress.logs,
        rows=sum(progress.rows.values()),
        steps=sum(progress.steps.values()),
        requests=traffic.requests,
        errors=traffic.errors,
        seconds=round(seconds, 2),
    )
