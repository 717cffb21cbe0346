"""What `run` and `backfill` share: endpoints whose chain id was checked, and signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import structlog

from indexer.background import beside
from indexer.config import Deployment, redact
from indexer.errors import ConfigError, IndexerError
from indexer.rpc.pool import Pool

log = structlog.get_logger()
T = TypeVar("T")


def rpc_endpoints(deployment: Deployment, flags: Sequence[str]) -> tuple[str, ...]:
    """The HTTP endpoints; ConfigError names the variable when there are none."""
    urls = deployment.endpoints("RPC", flags)
    warn_of_shown(flags)
    if not urls:
        raise ConfigError(
            f"no endpoint for {deployment.name}",
            f"Set {deployment.env_prefix}_RPC_URL=https://... (a comma-separated list), or give --rpc-url",
        )
    return urls


def warn_of_shown(flags: Sequence[str]) -> None:
    """Says that a flag's secret can be read by every user of the machine."""
    for url in (part.strip() for flag in flags for part in flag.split(",")):
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or any(len(p) >= 16 for p in parts.path.split("/")):
            log.warning("secret_in_the_process_list", endpoint=redact(url), remedy="put the URL into the environment")


@contextlib.asynccontextmanager
async def open_pool(deployment: Deployment, urls: Sequence[str], rps: float | None = None) -> AsyncIterator[Pool]:
    """Endpoints whose chain id was checked: before any database is touched. `rps` instead of the deployment's."""
    pool = Pool(
        urls, deployment.chain_id, max_blocks=deployment.max_blocks, timeout=deployment.rpc_timeout,
        rps=rps or deployment.rps, budgets=dict(deployment.budgets),
    )  # fmt: skip
    try:
        await pool.open()
        yield pool
    finally:
        await pool.close()


@contextlib.contextmanager
def errors_as_json(as_json: bool) -> Iterator[None]:
    """With --json a failure, too, is one object on stdout; the exit code and the line on stderr stay."""
    try:
        yield
    except IndexerError as error:
        if as_json:
            click.echo(json.dumps({"error": error.message, "remedy": error.remedy, "exit_code": error.exit_code}))
        raise


def end_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`; the running step is finished or rolled back."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def ending(work: Coroutine[Any, Any, T]) -> T | None:
    """The result of the work; None when SIGTERM or SIGINT ended it: its transaction rolls back."""
    stop = asyncio.Event()
    end_on_signals(stop)
    async with beside(stop.wait()) as stopped, beside(work) as working:
        await asyncio.wait({stopped, working}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
