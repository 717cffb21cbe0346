"""`reya-indexer backfill`: a block range, then the end."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import click
import structlog

from indexer import config, logging
from indexer.cli.database import data_dir_option, open_url, pg_bin_option, prepare_schema
from indexer.cli.display import on_terminal, shown
from indexer.cli.options import chain_option, json_option, log_format_option, rpc_option, verbose_option
from indexer.cli.session import end_on_signals, open_pool, rpc_endpoints
from indexer.config import Deployment
from indexer.errors import ConfigError
from indexer.follow.progress import Progress
from indexer.follow.runner import Runner
from indexer.store.standing import Standing

log = structlog.get_logger()


@click.command(
    "backfill",
    epilog="\b\nExamples:\n"
    "  reya-indexer backfill --from-block 0\n"
    "  reya-indexer backfill --chain cronos --from-block 1000000 --to-block 2000000 --json",
)
@chain_option
@click.option("--from-block", "first", type=click.IntRange(0), required=True, help="First block of the range.")
@click.option("--to-block", "last", type=click.IntRange(0), help="Last block of the range. Default: the head.")
@rpc_option
@data_dir_option
@pg_bin_option
@log_format_option
@verbose_option
@json_option
def backfill_command(
    chain: str, first: int, last: int | None, rpc_urls: tuple[str, ...], data_dir: Path | None, pg_bin: Path | None,
    log_format: logging.LogFormat, verbose: bool, as_json: bool,
) -> None:  # fmt: skip
    """Ingest a block range and project it as far as it joins what is there.

    Only what is missing is fetched; doing it again does nothing. On an empty database FROM becomes the origin, from
    which gapless coverage counts; a range below the origin lowers it, and the tables are projected again from there. A
    range above a gap is ingested only. While a daemon holds the projector's lease, this ingests and waits for it.
    """
    if last is not None and last < first:
        raise click.BadParameter(f"{last} is below --from-block {first}", param_hint="--to-block")
    logging.configure(log_format, debug=verbose, quiet=on_terminal() and not verbose)
    deployment = config.load(chain)
    urls = rpc_endpoints(deployment, rpc_urls)
    report = asyncio.run(_backfill(deployment, urls, first, last, data_dir, pg_bin))
    if report is None:
        click.echo("interrupted: what was committed stays; the same command goes on from there", err=True)
        raise click.exceptions.Exit(130)
    click.echo(json.dumps(report) if as_json else _sentence(report))


async def _backfill(
    deployment: Deployment, urls: tuple[str, ...], first: int, last: int | None, data_dir: Path | None,
    pg_bin: Path | None,
) -> dict[str, Any] | None:  # fmt: skip
    progress = Progress()
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(deployment, urls))
        head = (await pool.run(lambda reader: reader.heads())).latest.number
        if first > head:
            raise ConfigError(f"--from-block {first} is above the head, block {head}", "Name a lower block")
        if last is not None and last > head:
            log.warning("clamped", to_block=last, head=head, reason="blocks above the head do not exist yet")
        last = head if last is None else min(last, head)
        url = await asyncio.to_thread(open_url, deployment.name, data_dir, pg_bin)
        await asyncio.to_thread(prepare_schema, url)
        runner = Runner(deployment, url, pool, progress, first=first, last=last)
        stack.push_async_callback(runner.close)
        end_on_signals(runner.stop)
        await runner.open()
        async with shown(progress, lambda: last):
            standing = await runner.backfill()
        if not runner.finished(standing):
            return None
        return _report(standing, progress, first, last, pool.requests)


def _report(standing: Standing, progress: Progress, first: int, last: int, requests: int) -> dict[str, Any]:
    projected = standing.checkpoint.number if standing.checkpoint else None
    gap = {"first": standing.front + 1, "last": first - 1} if standing.front + 1 < first else None
    return {
        "from_block": first,
        "to_block": last,
        "projected": projected,
        "gap": gap,
        "logs": progress.logs,
        "rows": sum(progress.rows.values()),
        "requests": requests,
        "steps": sum(progress.steps.values()),
    }


def _sentence(report: dict[str, Any]) -> str:
    if report["gap"]:
        gap = report["gap"]
        return (
            f"ingested {report['from_block']} to {report['to_block']};"
            f" projected up to {report['projected']}, gap {gap['first']} to {gap['last']}"
        )
    if not report["steps"]:
        return f"nothing to do: blocks {report['from_block']} to {report['to_block']} are there already"
    return (
        f"projected up to {report['projected']}: {report['logs']} logs, {report['rows']} rows,"
        f" {report['requests']} requests"
    )
