"""`reya-indexer check`: verify that the rows are what they must be."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress as Bar

from indexer import config
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
from indexer.cli.progress_bars import stderr_is_terminal
from indexer.cli.session import checked_connection, open_pool, open_url, rpc_endpoints, say_if_interrupted
from indexer.config import Deployment
from indexer.db.connection import DAY_S, Connection, patient
from indexer.errors import ExitCode, RefusedError
from indexer.projector.writer import Writer
from indexer.runtime import log_setup, signals
from indexer.runtime.tasks import in_thread
from indexer.store.index_state import IndexState, binding, load_index_state

if TYPE_CHECKING:
    from indexer.check.contract_state import Answers, Sample


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """The flags of one check. `views`: rows of each kind to compare with the contracts' views, given an endpoint."""

    deployment: Deployment
    sample: int
    recompute: bool
    strict: bool
    endpoints: tuple[str, ...]
    views: int
    rps: float | None
    data_dir: Path | None
    pg_bin: Path | None


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
    chain: str, sample: int, recompute: bool, strict: bool, rpc_urls: tuple[str, ...], views: int, rps: float | None,
    data_dir: Path | None, pg_bin: Path | None, log_format: log_setup.LogFormat, as_json: bool,
) -> None:  # fmt: skip
    """Check the tables against each other and the stored raw logs.

    With --rpc-url, also against the contracts. Every position is replayed through its executions, auto-deleveraging,
    and the chain's own statements; PnL of closed sessions, open interest, and the number of executions must agree.
    Changes no table: it reads one snapshot, so a daemon may run meanwhile. Findings are written to indexer.drift, and
    the exit code is 33.
    """
    log_setup.configure(log_format, quiet=stderr_is_terminal())
    deployment = config.load(chain)
    endpoints = rpc_endpoints(deployment, rpc_urls) if rpc_urls else ()
    options = CheckOptions(deployment, sample, recompute, strict, endpoints, views, rps, data_dir, pg_bin)
    with say_if_interrupted("nothing was changed"):
        done = signals.run(_check(options))
    click.echo(json.dumps(done) if as_json else _summary(done))
    if done["drifts"]:
        raise click.exceptions.Exit(ExitCode.DRIFT)


async def _check(options: CheckOptions) -> dict[str, Any]:
    deployment = options.deployment
    url = await in_thread(open_url, deployment.name, options.data_dir, options.pg_bin)
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(checked_connection(url, deployment))
        if await binding(conn) is None:
            raise RefusedError("nothing is stored yet", "Start `reya-indexer run` or `backfill` first")
        bar = stack.enter_context(Bar(console=Console(stderr=True), disable=not stderr_is_terminal()))
        await conn.execute("SET statement_timeout = 0")
        stack.enter_context(patient(conn, DAY_S))
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            writer, state = (
                Writer(deployment),
                await load_index_state(conn, [c.address for c in deployment.contracts]),
            )
            if not writer.projection_is_current(state):
                raise RefusedError(
                    "contracts, ABIs or projections changed since the tables were written",
                    "Project them again first: `reya-indexer run` or `reya-indexer reproject`",
                )
            followed, rows, drifts = await _rows(conn, writer, state, options, bar)
            sample = None
            if options.endpoints:
                from indexer.check import contract_state  # Imported here: web3 is slow to import and seldom needed.

                sample = await contract_state.draw_sample(conn, options.views)
        # Views are called after the snapshot is closed: a slow endpoint must not keep it open.
        answers = await _ask(options, sample, bar) if sample is not None else None
        if answers is not None:
            drifts += answers.drifts
        if options.strict:
            drifts += followed.contradictions
        last = state.next_block - 1
        if drifts:
            await recompute.record_drift(conn, drifts, last)
    done = {"block": last, "identities": len(INVARIANTS), "rows_compared": rows, "whole": options.recompute,
            "drifts": [drift._asdict() for drift in drifts], "positions": _positions(followed)}  # fmt: skip
    if sample is not None and answers is not None:
        done["views"] = {"block": sample.number, "hash": "0x" + sample.hash.hex(), "compared": answers.compared,
                         "unanswered": answers.unanswered}  # fmt: skip
    return done


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


async def _ask(options: CheckOptions, sample: Sample, bar: Bar) -> Answers:
    from indexer.check import contract_state

    task = bar.add_task(f"views at block {sample.number}", total=sum(map(len, sample.rows.values())))
    async with open_pool(options.deployment, options.endpoints, options.rps) as pool:
        return await contract_state.compare(options.deployment, pool, sample, lambda: bar.update(task, advance=1))


def _positions(followed: Reconciliation) -> dict[str, Any]:
    counted = followed.counted
    return {
        "followed": len(followed.positions), "statements": counted.compared, "sessions": counted.sessions,
        "markets": counted.markets, "contradictions": counted.contradictions,
        "examples": [finding._asdict() for finding in followed.contradictions[:20]],
    }  # fmt: skip


def _summary(done: dict[str, Any]) -> str:
    positions = done["positions"]
    what = (
        f"{done['identities']} identities, {done['rows_compared']:,} rows against the raw logs,"
        f" {positions['followed']:,} positions ({positions['statements']:,} statements,"
        f" {positions['sessions']:,} closed sessions, open interest of {positions['markets']} markets)"
    )
    if "views" in done:
        views = done["views"]
        what += f", {views['compared']} rows against the contracts at block {views['block']:,}"
        what += f" ({len(views['unanswered'])} not answered)" if views["unanswered"] else ""
    lines = []
    if positions["contradictions"]:
        first = positions["examples"][0]
        lines.append(
            f"  {positions['contradictions']:,} statements of the chain do not follow from earlier ones (first:"
            f" position {first['subject']}, {first['detail']}): PnL of these sessions is not proven. --strict makes"
            " them drift"
        )
    if not done["drifts"]:
        return "\n".join([f"clean up to block {done['block']:,}: {what}", *lines])
    shown = [f"  {d['check']}: {d['subject']}: {d['detail']}" for d in done["drifts"][:20]]
    more = len(done["drifts"]) - len(shown)
    return "\n".join(
        [f"{len(done['drifts'])} drifts up to block {done['block']:,} ({what}):", *shown]
        + ([f"  and {more} more"] if more else [])
        + lines
        + ["All are in indexer.drift. `reproject` makes the rows again, `reorg verify` checks the raw logs"]
    )
