"""Ingest workers that are forks of this process, so that they need not repeat its imports (a third of a second each).

Forking is safe only in a process without other threads and without an event loop, so workers are made before both
exist, and then wait for their WorkerConfig. One that is not needed exits when its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from indexer.ingest import worker_process

_POLL_INTERVAL_S = 0.02
# That a worker can write ahead of the parent: one commit report. Each turn of the parent's event loop may have to wait
# for a thread that computes, and with the usual 64 KiB a report would take fifty turns.
_PIPE_BYTES = 1 << 20


class ForkedWorker:
    """A forked worker and the parent's ends of its pipes.

    It offers what `process_pool.py` needs of an asyncio.subprocess.Process.
    """

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    def __init__(self, pid: int, into: int, out_of: int) -> None:
        self.pid, self.ends = pid, (into, out_of)
        self.returncode: int | None = None
        self._opened = False

    async def open(self, limit: int) -> None:
        """Connect the pipes to the running event loop. `limit`: read-ahead (bytes)."""
        loop, (into, out_of) = asyncio.get_running_loop(), self.ends
        self._opened = True
        self.stdout = asyncio.StreamReader(limit)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self.stdout), os.fdopen(out_of, "rb", 0))
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(into, "wb", 0)
        )
        self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)

    async def wait(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        while (code := self._ended()) is None:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(_POLL_INTERVAL_S)
        return code

    def _ended(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    async def reap_unused(self) -> None:
        """End the worker unless it was opened; an opened worker belongs to whoever opened it."""
        if not self._opened:
            for end in self.ends:
                os.close(end)
            self.kill()  # it has not begun anything
            await self.wait()

    def kill(self) -> None:
        """Kill the process. Raises ProcessLookupError once it was reaped: its pid may be another's by now."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGKILL)


def fork_workers(count: int) -> list[ForkedWorker]:
    """Fork `count` workers. Call this before there is an event loop or a thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    workers: list[ForkedWorker] = []
    for _ in range(count):
        workers.append(_fork(workers))
    return workers


def _fork(earlier: Sequence[ForkedWorker]) -> ForkedWorker:
    (child_in, into), (out_of, child_out) = os.pipe(), os.pipe()
    with contextlib.suppress(AttributeError, OSError):  # Linux only, and users have a limit
        fcntl.fcntl(out_of, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    pid = os.fork()
    if pid:
        os.close(child_in)
        os.close(child_out)
        return ForkedWorker(pid, into, out_of)
    code = 1
    try:
        # A worker exits when its input ends. A sibling that held the other end open would keep it alive.
        for end in (into, out_of, *(end for worker in earlier for end in worker.ends)):
            os.close(end)
        os.dup2(child_in, 0)
        os.dup2(child_out, 1)
        os.close(child_in)
        os.close(child_out)
        worker_process.main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)  # without the parent's cleanup, which must not run twice
