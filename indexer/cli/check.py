"""`reya-indexer check`: whether the rows are what they must be."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress as Bar

from indexer import config, logging
from indexer.cli.database import checked_connection, data_dir_option, open_url, pg_bin_option
from indexer.cli.display import on_terminal
from indexer.cli.options import chain_option, json_option, log_format_option
from indexer.cli.session import ending
from indexer.config import Deployment
from indexer.errors import Refused
from indexer.store import recheck
from indexer.store.database import A_DAY, patient
from indexer.store.identities import IDENTITIES
from indexer.store.standing import binding, load
from indexer.store.steps import Writer

DRIFTED = 33


@click.command(
    "check",
    epilog="\b\nExamples:\n"
    "  reya-indexer check\n"
    "  reya-indexer check --sample 20000 --json\n"
    "  reya-indexer check --recompute",
)
@chain_option
@click.option("--sample", type=click.IntRange(0), default=1_000, show_default=True, metavar="N",
              help="Rows of about N random logs are compared with what the logs give.")  # fmt: skip
@click.option("--recompute", is_flag=True, help="Compare every row with the projection of all stored raw logs.")
@data_dir_option
@pg_bin_option
@log_format_option
@json_option
def check_command(
    chain: str, sample: int, recompute: bool, data_dir: Path | None, pg_bin: Path | None,
    log_format: logging.LogFormat, as_json: bool,
) -> None:  # fmt: skip
    """Check the tables against each other and against the stored raw logs. Asks no endpoint, changes no row.

    It reads one snapshot, so a daemon may run meanwhile. What it finds is written to indexer.drift, and the exit code
    is 33.
    """
    logging.configure(log_format, quiet=on_terminal())
    deployment = config.load(chain)
    done = asyncio.run(ending(_check(deployment, sample, recompute, data_dir, pg_bin)))
    if done is None:
        click.echo("interrupted: nothing was changed", err=True)
        raise click.exceptions.Exit(130)
    click.echo(json.dumps(done) if as_json else _sentence(done))
    if done["drifts"]:
        raise click.exceptions.Exit(DRIFTED)


async def _check(
    deployment: Deployment, sample: int, recompute: bool, data_dir: Path | None, pg_bin: Path | None
) -> dict[str, Any]:
    url = await asyncio.to_thread(open_url, deployment.name, data_dir, pg_bin)
    writer = Writer(deployment)
    async with AsyncExitStack() as stack:
        conn = await stack.enter_async_context(checked_connection(url, deployment))
        if await binding(conn) is None:
            raise Refused("nothing is stored yet", "Start `reya-indexer run` or `backfill` first")
        bar = stack.enter_context(Bar(console=Console(stderr=True), disable=not on_terminal()))
        await conn.execute("SET statement_timeout = 0")
        stack.enter_context(patient(conn, A_DAY))
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            standing = await load(conn, [c.address for c in deployment.contracts])
            if not writer.projectable(standing):
                raise Refused(
                    "contracts, ABIs or projections changed since the tables were written",
                    "Let `reya-indexer run` or `reproject` project them again first",
                )
            last = standing.next_block - 1
            task = bar.add_task("identities", total=len(IDENTITIES))
            drifts = await recheck.identities(conn, lambda name: bar.update(task, advance=1, description=name))
            if recompute:
                task = bar.add_task("rows against raw logs", total=max(last, 1))
                rows, found = await recheck.recompute(
                    conn, writer, standing, lambda block: bar.update(task, completed=block)
                )
            else:
                rows, found = await recheck.sample(conn, writer, standing, sample)
            drifts += found
        if drifts:
            await recheck.keep(conn, drifts, last)
    return {"block": last, "identities": len(IDENTITIES), "rows_compared": rows, "whole": recompute,
            "drifts": [drift._asdict() for drift in drifts]}  # fmt: skip


def _sentence(done: dict[str, Any]) -> str:
    what = f"{done['identities']} identities, {done['rows_compared']:,} rows against the raw logs"
    if not done["drifts"]:
        return f"clean up to block {done['block']:,}: {what}"
    lines = [f"  {d['check']}: {d['subject']}: {d['detail']}" for d in done["drifts"][:20]]
    more = len(done["drifts"]) - len(lines)
    return "\n".join(
        [f"{len(done['drifts'])} drifts up to block {done['block']:,} ({what}):", *lines]
        + ([f"  and {more} more"] if more else [])
        + ["All are in indexer.drift. `reproject` makes the rows again, `reorg verify` checks the raw logs"]
    )
