"""`reya-indexer enrich`: read state that is in no log from the contracts, at one final block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress as Bar

from indexer import config
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
from indexer.cli.progress_bars import stderr_is_terminal
from indexer.cli.session import (
    COMMITTED_IS_KEPT,
    checked_connection,
    open_pool,
    open_url,
    rpc_endpoints,
    say_if_interrupted,
)
from indexer.config import Deployment
from indexer.contracts.enrich import KINDS, Enrichment, EnrichResult, missing_keys
from indexer.db.connection import Connection
from indexer.errors import RefusedError, StateUnavailableError
from indexer.runtime import log_setup, signals
from indexer.runtime.tasks import in_thread
from indexer.store import enrichment
from indexer.store.enrichment import EnrichmentRun
from indexer.store.index_state import binding

_ONE_AT_A_TIME = 0x72657961656E72  # Key of the advisory lock: "reyaenr".


@dataclass(frozen=True, slots=True)
class EnrichOptions:
    """The flags of one run. `rps` caps requests to each endpoint (per second), `most` caps calls."""

    deployment: Deployment
    endpoints: tuple[str, ...]
    kinds: Sequence[str]
    rps: float
    most: int
    restart: bool
    data_dir: Path | None
    pg_bin: Path | None


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
    chain: str, rpc_urls: tuple[str, ...], kinds: tuple[str, ...], rps: float, most: int, restart: bool, dry_run: bool,
    data_dir: Path | None, pg_bin: Path | None, log_format: log_setup.LogFormat, as_json: bool,
) -> None:  # fmt: skip
    """Read state from the contracts that no log contains.

    That is market configuration, fee parameters, fee tiers of owners, pool share prices, token names, and positions
    that no log states. No other command does this. All calls are made at one block, the last finalized one that is
    projected, by its hash; each row names it. A later run replaces the rows of an earlier one. Rows written by an
    application are left alone.
    """
    log_setup.configure(log_format, quiet=stderr_is_terminal())
    deployment = config.load(chain)
    endpoints = () if dry_run else rpc_endpoints(deployment, rpc_urls)
    options = EnrichOptions(deployment, endpoints, kinds or list(KINDS), rps, most, restart, data_dir, pg_bin)
    with say_if_interrupted(COMMITTED_IS_KEPT):
        done = signals.run(_enrich(options, dry_run))
    click.echo(json.dumps(done) if as_json else _summary(done))


async def _enrich(options: EnrichOptions, dry_run: bool) -> dict[str, Any]:
    deployment = options.deployment
    url = await in_thread(open_url, deployment.name, options.data_dir, options.pg_bin)
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(checked_connection(url, deployment))
        if await binding(conn) is None:
            raise RefusedError("nothing is stored yet", "Start `reya-indexer run` or `backfill` first")
        run = None if options.restart else await enrichment.resumable(conn)
        if run is None:
            run = await enrichment.pin_block(conn)
        if dry_run:
            return await _estimate(conn, run, options)
        if not await conn.fetchval("SELECT pg_try_advisory_lock($1)", _ONE_AT_A_TIME):
            raise RefusedError("another `enrich` is running on this database", "Wait until it finishes")
        pool = await stack.enter_async_context(open_pool(deployment, options.endpoints, options.rps))
        bar = stack.enter_context(Bar(console=Console(stderr=True), disable=not stderr_is_terminal()))
        tasks = {kind: bar.add_task(kind, total=None) for kind in options.kinds}

        def on_progress(kind: str, done: int, total: int) -> None:
            bar.update(tasks[kind], completed=done, total=total)

        work = Enrichment(deployment, pool, conn, options.kinds, options.most, on_progress)
        try:
            return _as_json(await work.run(run))
        except StateUnavailableError as error:
            if run.resumed:  # Its block is as old as the interrupted run: nodes may have pruned its state.
                error.remedy += "; or start over at the current finalized block with --restart"
            raise


async def _estimate(conn: Connection, run: EnrichmentRun, options: EnrichOptions) -> dict[str, Any]:
    already_read = await enrichment.already_read(conn, run)
    targets = {name: len(await missing_keys(conn, KINDS[name], already_read)) for name in options.kinds}
    calls = sum(count * KINDS[name].calls for name, count in targets.items())
    return {"dry_run": True, "block": run.number, "hash": "0x" + run.hash.hex(), "resumed": run.resumed,
            "targets": targets, "calls": calls, "seconds": round(min(calls, options.most) / options.rps)}  # fmt: skip


def _as_json(done: EnrichResult) -> dict[str, Any]:
    return {"block": done.run.number, "hash": "0x" + done.run.hash.hex(), "resumed": done.run.resumed,
            "calls": done.calls, "written": dict(done.written), "kept": done.left_alone, "unanswered": done.unanswered,
            "left": done.left}  # fmt: skip


def _summary(done: dict[str, Any]) -> str:
    at = f"at block {done['block']:,}{', resumed' if done['resumed'] else ''}"
    if done.get("dry_run"):
        what = ", ".join(f"{count:,} {kind}" for kind, count in done["targets"].items())
        return f"{at}: {what}: {done['calls']:,} calls; up to --max-calls they take about {done['seconds']:,} s"
    lines = [f"{at}: {done['calls']:,} calls, {sum(done['written'].values()):,} rows written"]
    lines += [f"  {table}: {count:,}" for table, count in done["written"].items()]
    if done["kept"]:
        lines.append(f"  left alone, an application's: {', '.join(done['kept'][:5])}")
    if done["unanswered"]:
        lines.append(f"  not answered {len(done['unanswered']):,} times, first {done['unanswered'][0]}")
    if done["left"]:
        lines.append(f"  {done['left']:,} left: --max-calls is reached; the same command goes on")
    return "\n".join(lines)
