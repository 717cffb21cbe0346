"""`reya-indexer run`: run the daemon."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import click
import structlog

from indexer import config
from indexer.attest.auditor import Auditor
from indexer.attest.head_prover import HeadProver
from indexer.cli.options import (
    Rate,
    chain_option,
    data_dir_option,
    log_format_option,
    pg_bin_option,
    rpc_option,
    verbose_option,
    ws_option,
)
from indexer.cli.progress_bars import show_progress, stderr_is_terminal
from indexer.cli.session import (
    Session,
    SessionOptions,
    embedded_server,
    prepare_schema,
    rpc_endpoints,
    warn_about_visible_secrets,
)
from indexer.config import Deployment
from indexer.db.connection import connect
from indexer.embedded_pg.guard import kept_running
from indexer.errors import ConfigError
from indexer.exit_codes import ExitCode
from indexer.follow.endpoint_monitor import EndpointMonitor
from indexer.follow.runner import Runner
from indexer.ops import http
from indexer.ops.live_status import LiveStatus
from indexer.rpc.head_feed import HeadFeed
from indexer.rpc.pool import Pool
from indexer.runtime import log_setup, signals
from indexer.runtime.progress import DaemonProgress
from indexer.runtime.tasks import background_task
from indexer.runtime.tuning import FOLLOWING, tune_gc, tune_thread_switching
from indexer.store.provenance import EndpointFault

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(SessionOptions):
    """The flags of the daemon. `wakers`: WebSocket endpoints that announce heads. Port 0: no status page."""

    wakers: tuple[str, ...]
    http_host: str
    http_port: int


@click.command(
    "run",
    epilog="\b\nExamples:\n"
    "  REYA_RPC_URL=https://rpc.example reya-indexer run --chain reya\n"
    "  reya-indexer run --chain devnet --rpc-url http://127.0.0.1:8545 --ws-url ws://127.0.0.1:8545\n"
    "  DATABASE_URL=postgresql://indexer@db/reya reya-indexer run --log-format json",
)
@chain_option
@rpc_option
@ws_option
@click.option("--poll-interval", type=Rate(0.01, 3600), help="Seconds between polls of the head.")
@click.option(
    "--http-host", default="127.0.0.1", show_default=True, help="Address for the status page, /ready, and /metrics."
)
@click.option(
    "--http-port",
    default=9464,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port for the same; 0 disables them.",
)
@click.option("--attest/--no-attest", default=None,
              help="Attest finalized blocks in the background. Default: `enabled` in [attest].")  # fmt: skip
@click.option("--attest-rps", type=Rate(0.01, 10_000), metavar="R",
              help="Maximum attestation requests per second to each endpoint. Default: `rps` in [attest].")  # fmt: skip
@data_dir_option
@pg_bin_option
@log_format_option
@verbose_option
def run_command(
    chain: str, rpc_urls: tuple[str, ...], ws_urls: tuple[str, ...], poll_interval: float | None, attest: bool | None,
    attest_rps: float | None, log_format: log_setup.LogFormat, verbose: bool, **flags: Any,
) -> None:  # fmt: skip
    """Catch up with the chain, then follow its head until stopped.

    Without DATABASE_URL, it starts its own PostgreSQL. An empty database is migrated and bound to this deployment.
    """
    log_setup.configure(log_format, debug=verbose)
    tune_gc(FOLLOWING)
    tune_thread_switching()
    deployment = _with_flags(config.load(chain), poll_interval, attest, attest_rps)
    urls, wakers = rpc_endpoints(deployment, rpc_urls), deployment.endpoints("WS", ws_urls)
    warn_about_visible_secrets(ws_urls)
    options = RunOptions(deployment=deployment, endpoints=urls, wakers=wakers, **flags)
    with suppress(KeyboardInterrupt):  # It was stopped while it started: the daemon has done what it was asked to.
        signals.run_stoppable(partial(_run, options), ExitCode.DONE)


def _with_flags(
    deployment: Deployment, poll_interval: float | None, attest: bool | None, attest_rps: float | None
) -> Deployment:  # fmt: skip
    """Return the deployment with what flags override. Raises ConfigError for --no-attest where commits depend on it."""
    attesting = deployment.attest
    attesting = replace(
        attesting, enabled=attesting.enabled if attest is None else attest, rps=attest_rps or attesting.rps
    )
    if attesting.before_commit and not attesting.enabled:
        raise ConfigError(
            f"--no-attest contradicts before_commit = true in [attest] of {deployment.path}", "Leave one of them out"
        )
    interval = deployment.poll_interval if poll_interval is None else poll_interval
    return replace(deployment, poll_interval=interval, attest=attesting)


async def _run(options: RunOptions, stop: signals.StopRequest) -> None:
    deployment, progress = options.deployment, DaemonProgress()
    async with Session(options) as session:
        pool = await session.open_pool()
        live = LiveStatus(deployment, progress, pool)
        await _serve_status(session, options, live)
        url = await session.database_url()
        live.url = url
        runner = Runner(deployment, url, pool, progress)
        session.push_async_callback(runner.close)
        runner.stop = stop
        await runner.prepare(partial(prepare_schema, url))
        await runner.open()
        feed = HeadFeed(options.wakers, deployment.poll_interval, chain_id=deployment.chain_id)
        live.heads = lambda: feed.state
        feed.start()
        session.push_async_callback(feed.close)
        monitor = EndpointMonitor(pool, feed, partial(connect, url), lambda: runner.engine.final_ref)
        await monitor.restore()
        session.push_async_callback(monitor.save_once_more)
        await session.enter_async_context(background_task(runner.watchdog(feed).run()))
        await session.enter_async_context(background_task(monitor.run()))
        log.info("following", chain=deployment.name, chain_id=deployment.chain_id, heads=feed.state)
        if (stderr_is_terminal() and progress.head - progress.projected > 50_000) or not stderr_is_terminal():
            await session.enter_async_context(show_progress(progress, lambda: progress.head))
        if deployment.attest.enabled:
            await _start_attesting(session, options, url, runner, feed)
        embedded = embedded_server(options.data_dir, options.pg_bin)
        await session.enter_async_context(kept_running(embedded, stop))
        stop.handled = True
        await runner.follow(feed)
        log.info("ended", projected=progress.projected)
        if embedded is not None:
            log.info("embedded_postgresql_runs_on", stop="reya-indexer db stop", data_dir=str(embedded.data_dir))


async def _serve_status(session: Session, options: RunOptions, live: LiveStatus) -> None:
    """Serve the status page, /ready and /metrics from now on, unless the port is 0. Raises PortInUseError."""
    if not options.http_port:
        return
    server = await http.serve(options.http_host, options.http_port, live)
    session.push_async_callback(server.cleanup)
    live.start()
    session.push_async_callback(live.close)
    log.info("status_page", url=f"http://{_for_url(options.http_host)}:{options.http_port}/")


def _for_url(host: str) -> str:
    """Return an address as a browser on this machine takes it."""
    return "localhost" if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host


async def _start_attesting(
    session: Session, options: RunOptions, url: str, runner: Runner, feed: HeadFeed
) -> None:  # fmt: skip
    """Start the auditor and, if configured, the prover of the head."""
    deployment, pool, progress, engine = options.deployment, runner.pool, runner.progress, runner.engine

    def own_pool(rps: float) -> Pool:
        # Each has its own pool: its cap must not count against the follower's, nor its waits delay it.
        opened = Pool(
            options.endpoints, deployment.chain_id, max_blocks=deployment.max_blocks, timeout=deployment.rpc_timeout,
            rps=rps, budgets=pool.budgets,
        )  # fmt: skip
        session.push_async_callback(opened.close)
        return opened

    def on_fault(fault: EndpointFault) -> None:
        pool.set_aside_wrong(fault.endpoint, fault.reason)

    def on_wrong(first: int) -> None:
        engine.observer.report_wrong_logs(first)
        feed.wake()

    opened = partial(connect, url)
    auditor = Auditor(deployment, own_pool(deployment.attest.rps), progress, opened, engine.observer.finality, on_fault)
    await session.enter_async_context(background_task(auditor.run()))
    if deployment.attest.head:
        prover = HeadProver(deployment, own_pool(deployment.attest.head_rps), progress, opened, on_wrong)
        engine.actions.on_head_commit = prover.offer
        await session.enter_async_context(background_task(prover.run()))
