"""`reya-indexer backfill`: ingest a block range up to finalized, and project it as far as it joins the projection."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import structlog

from indexer import config
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
from indexer.cli.session import (
    COMMITTED_IS_KEPT,
    embedded_server,
    open_pool,
    open_url,
    prepare_schema,
    rpc_endpoints,
    say_if_interrupted,
)
from indexer.config import Deployment
from indexer.decode.block_times import time_fields_of
from indexer.embedded_pg.guard import kept_running
from indexer.errors import ConfigError, EndpointUnreachableError
from indexer.follow.catch_up import DEFER_BLOCKS
from indexer.follow.engine_options import EngineOptions
from indexer.follow.runner import Runner
from indexer.ingest.dask_cluster import DaskExecutor
from indexer.ingest.estimate import estimate
from indexer.ingest.process_pool import WorkerPool
from indexer.ingest.worker import WorkerConfig
from indexer.ingest.worker_fork import ForkedWorker, fork_workers
from indexer.rpc.pool import Pool
from indexer.runtime import log_setup, signals
from indexer.runtime.progress import DaemonProgress
from indexer.runtime.tasks import background_task, in_thread
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


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """The flags of one backfill. `rps` caps requests (per second) to each endpoint, of all workers; None: no cap."""

    deployment: Deployment
    urls: tuple[str, ...]
    first: int
    last: int | str
    workers: int | None
    rps: float | None
    ingest_only: bool
    defer: bool | None
    scheduler: str | None
    data_dir: Path | None
    pg_bin: Path | None
    log_format: log_setup.LogFormat


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
    chain: str, first: int, last: int | str, workers: int | None, rps: float | None, engine: str, scheduler: str | None,
    ingest_only: bool, defer: bool | None, dry_run: bool, rpc_urls: tuple[str, ...], data_dir: Path | None,
    pg_bin: Path | None, log_format: log_setup.LogFormat, verbose: bool, as_json: bool,
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
    deployment = config.load(chain)
    urls = rpc_endpoints(deployment, rpc_urls)
    options = BackfillOptions(
        deployment,
        urls,
        first,
        last,
        workers,
        rps or deployment.rps,
        ingest_only,
        defer,
        scheduler,
        data_dir,
        pg_bin,
        log_format,
    )
    if dry_run:
        planned = signals.run(_estimate(options))
        click.echo(json.dumps(planned) if as_json else _plan_summary(planned))
        return
    forked = fork_workers(_max_parallelism(options))
    with say_if_interrupted(COMMITTED_IS_KEPT):
        report = signals.run_stoppable(partial(_backfill, options, forked))
        if report is None:
            raise KeyboardInterrupt
    click.echo(json.dumps(report) if as_json else _summary(report))


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


async def _estimate(options: BackfillOptions) -> dict[str, Any]:
    async with open_pool(options.deployment, options.urls, options.rps) as pool:
        last = await _last_block(pool, options)
        url = await in_thread(open_url, options.deployment.name, options.data_dir, options.pg_bin)
        planned = await estimate(url, options.deployment, pool, options.first, last, options.workers or 1, options.rps)
    return {"from_block": options.first, "to_block": last} | planned


async def _backfill(
    options: BackfillOptions, workers: Sequence[ForkedWorker], stop: signals.StopRequest
) -> dict[str, Any] | None:  # fmt: skip
    """Run the backfill and return its report; None if it was stopped early.

    `workers` were forked before the event loop started.
    """
    progress, started = DaemonProgress(), time.monotonic()
    async with AsyncExitStack() as stack:
        for worker in workers:
            stack.push_async_callback(worker.reap_unused)
        processes = 1 + (1 if options.workers is None else options.workers)
        share = options.rps if options.rps is None else options.rps / processes
        pool = await stack.enter_async_context(open_pool(options.deployment, options.urls, share))
        last = await _last_block(pool, options)
        url = await in_thread(open_url, options.deployment.name, options.data_dir, options.pg_bin)
        executor = _executor(options, url, share, _parallelism(options, last), workers)
        if executor is not None:
            stack.push_async_callback(executor.close)
            await executor.start()
        defer_from = {None: DEFER_BLOCKS, True: 0, False: sys.maxsize}[options.defer]
        engine = EngineOptions(options.first, last, executor, options.ingest_only, defer_from)
        runner = Runner(options.deployment, url, pool, progress, engine)
        stack.push_async_callback(runner.close)
        runner.stop = stop
        await runner.prepare(partial(prepare_schema, url))
        await runner.open()
        if runner.conn is None:  # It was stopped while it waited for a database or an endpoint.
            return None
        await stack.enter_async_context(background_task(runner.watchdog(None).run()))
        await stack.enter_async_context(kept_running(embedded_server(options.data_dir, options.pg_bin), stop))
        async with show_backfill_progress(
            progress, lambda: executor.traffic(pool) if executor else pool.traffic(), last
        ):
            stop.handled = True
            state = await runner.backfill()
        if state is None or not runner.finished(state):
            return None
        traffic = executor.traffic(pool) if executor else pool.traffic()
        return _report(state, progress, options.first, last) | {
            "requests": traffic.requests,
            "errors": traffic.errors,
            "seconds": round(time.monotonic() - started, 2),
        }


def _max_parallelism(options: BackfillOptions) -> int:
    """Return the largest number of worker processes that may be needed, before the block range is known."""
    parallelism = 1 if options.workers is None else options.workers
    # With --ingest-only this process does not project, so a single worker needs no process of its own.
    return 0 if options.scheduler is not None or (options.ingest_only and parallelism == 1) else parallelism


def _parallelism(options: BackfillOptions, last: int) -> int:
    """Return how many workers ingest outside this process; 0 if this process ingests itself."""
    if options.scheduler is not None:
        return options.workers or 1
    few = last - options.first < FEW_REQUESTS * options.deployment.max_blocks
    return 0 if options.workers is None and few else _max_parallelism(options)


def _executor(
    options: BackfillOptions, url: str, share: float | None, parallelism: int, workers: Sequence[ForkedWorker]
) -> WorkerPool | DaskExecutor | None:  # fmt: skip
    """Return the workers' executor; None if this process ingests itself. `share`: requests of each (per second)."""
    deployment = options.deployment
    budget = dict(deployment.budgets).get("backfill")
    worker_config = WorkerConfig(
        url, options.urls, deployment.chain_id, deployment.max_blocks, time_fields_of(deployment.contracts), share,
        hand_over=options.scheduler is None and not options.ingest_only, log_format=options.log_format,
        timeout=deployment.rpc_timeout, budget=None if budget is None else budget / max(1, parallelism),
    )  # fmt: skip
    if options.scheduler is not None:
        return DaskExecutor(worker_config, options.scheduler, parallelism)
    return WorkerPool(worker_config, parallelism, workers[:parallelism]) if parallelism else None


def _report(state: IndexState, progress: DaemonProgress, first: int, last: int) -> dict[str, Any]:
    projected = state.checkpoint.number if state.checkpoint else None
    gap = {"first": state.contiguous_end + 1, "last": first - 1} if state.contiguous_end + 1 < first else None
    assert not plan_missing(state.coverage, first, last)
    return {
        "from_block": first,
        "to_block": last,
        "projected": projected,
        "gap": gap,
        "logs": progress.logs,
        "rows": sum(progress.rows.values()),
        "steps": sum(progress.steps.values()),
    }


def _summary(report: dict[str, Any]) -> str:
    first, last = report["from_block"], report["to_block"]
    if report["gap"]:
        gap = report["gap"]
        return f"ingested {first} to {last}; projected up to {report['projected']}, gap {gap['first']} to {gap['last']}"
    if not report["steps"]:
        return f"nothing to do: blocks {first} to {last} are there already"
    errors = ", ".join(f"{n} {name}" for name, n in sorted(report["errors"].items()))
    logs, seconds = report["logs"], report["seconds"]
    pace = f"{logs / max(seconds, 0.01):,.0f} logs/s"
    return (
        f"projected up to {report['projected']}: {logs:,} logs, {report['rows']:,} rows,"
        f" {report['requests']:,} requests in {seconds:,.1f} s ({pace}); errors met and overcome: {errors or 'none'}"
    ).replace("projected up to None", "ingested")


def _plan_summary(planned: dict[str, Any]) -> str:
    if not planned["blocks"]:
        return f"nothing to do: blocks {planned['from_block']} to {planned['to_block']} are there already"
    parts = "1 part" if planned["segments"] == 1 else f"{planned['segments']:,} parts"
    return (
        f"blocks {planned['from_block']:,} to {planned['to_block']:,}: {planned['blocks']:,} of them missing in"
        f" {parts}\n"
        f"  about {planned['logs']:,} logs (from {planned['samples']} samples), {planned['requests']:,} requests,"
        f" {planned['bytes'] / 2**30:,.1f} GiB of disk\n"
        f"  {_duration(planned['seconds'])}: {planned['bound_by']}"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes} min" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min"
