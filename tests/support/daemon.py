"""The program as a process of its own: started, waited for, told to end, killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import asyncpg

from tests.support.waiting import PATIENCE, ended, eventually

ENDPOINTS = ("_RPC_URL", "_WS_URL")
PROGRAM = [sys.executable, "-m", "indexer.cli.main"]


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours without a developer's endpoints and database, plus `extra`."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("DATABASE_URL", "REYA_INDEXER_")) and not k.removesuffix("_FILE").endswith(ENDPOINTS)
    }
    return kept | dict(extra)


def run(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments], env=environment(env), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


class Daemon:
    """`reya-indexer run`, or another long command, with JSON logs in a file."""

    started: ClassVar[list[Daemon]] = []

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], log: Path, command: str = "run") -> None:
        self.log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [*PROGRAM, command, "--log-format", "json", *arguments],
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self.started.append(self)

    def lines(self) -> list[dict[str, Any]]:
        """Its log lines so far; what is no JSON (a traceback) is a line with that text."""
        parsed = []
        for line in self.log.read_text().splitlines():
            try:
                parsed.append(json.loads(line))
            except ValueError:
                parsed.append({"event": "not JSON", "text": line})
        return parsed

    def wait_for(self, event: str) -> dict[str, Any]:
        """Its first line of this event, as soon as there is one. Fails when it ends without."""
        end = time.monotonic() + PATIENCE
        while True:
            over = self.process.poll() is not None or time.monotonic() > end  # what it said last is read after that
            for line in self.lines():
                if line["event"] == event:
                    return line
            if over:
                raise AssertionError(f"no {event!r} in {self._how()}")
            time.sleep(0.05)

    def _how(self) -> str:
        """How it is, for people."""
        return f"the log of a process with exit code {self.process.poll()}: {self.log.read_text()[-3000:]}"

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Exit code, and the seconds it took."""
        started = time.monotonic()
        self.process.send_signal(number)
        code = ended(self.process, lambda: f"the end of a process after {number.name}; {self._how()}")
        return code, time.monotonic() - started

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        ended(self.process, f"the end of process {self.process.pid} after SIGKILL")


def get(url: str) -> tuple[int, str]:
    """Status and body of an HTTP answer, error statuses included."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def wait_synced(url: str, number: int, block_hash: str) -> None:
    """Until the checkpoint is this block of this hash."""
    seen: Any = None

    async def there() -> bool:
        nonlocal seen
        with contextlib.suppress(asyncpg.UndefinedTableError):  # not migrated yet
            seen = await conn.fetchrow("SELECT number, '0x' || encode(hash, 'hex') FROM indexer.checkpoint")
        return seen is not None and tuple(seen) == (number, block_hash)

    conn = await asyncpg.connect(url)
    try:
        await eventually(there, lambda: f"block {number} {block_hash}; the checkpoint is {seen}")
    finally:
        await conn.close()


LOCKED_OUT = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def wait_row(url: str, query: str, *args: object) -> asyncpg.Record:
    """The first row, as soon as the query finds one."""
    conn = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = await eventually(lambda: conn.fetch(query, *args), query)
        return rows[0]
    finally:
        await conn.close()


async def index(url: str, number: int, block_hash: str, *arguments: str) -> None:
    """A daemon that follows up to this head and ends. `arguments` name chain and endpoint."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon([*arguments, "--http-port", "0"], {"DATABASE_URL": url}, Path(folder) / "log")
        try:
            await wait_synced(url, number, block_hash)
        finally:
            assert daemon.terminate()[0] == 0
