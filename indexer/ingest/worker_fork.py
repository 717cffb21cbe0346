"""Ingest workers that are copies of this process: they need not import what it has imported, a third of a second each.

A copy is safe only of a process without other threads and without an event loop, so they are made before both, and wait
for their Setup. One that is not needed ends with its input.
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

_POLL_INTERVAL_S = 0.02  # seconds
# Bytes that a worker can write ahead of us: one report of a commit. Each turn of our loop may have to wait for a thread
# that computes, and with the usual 64 KiB a report takes fifty turns.
_PIPE_BYTES = 1 << 20


class ForkedWorker:
    """A worker and the parent's ends of its pipes: what `crew.py` needs of an asyncio.subprocess.Process."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    def __init__(self, pid: int, into: int, out_of: int) -> None:
        self.pid, self.ends = pid, (into, out_of)
        self.returncode: int | None = None
        self._opened = False

    async def open(self, limit: int) -> None:
        """Connects the pipes to the running loop; `limit`: bytes read ahead."""
        loop, (into, out_of) = asyncio.get_running_loop(), self.ends
        self._opened = True
        self.stdout = asyncio.StreamReader(limit)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self.stdout), os.fdopen(out_of, "rb", 0))
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(into, "wb", 0)
        )
        self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        while (code := self._ended()) is None:  # noqa: ASYNC110 - there is no event that could be waited for
            await asyncio.sleep(_POLL_INTERVAL_S)
        return code

    def _ended(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    async def reap_unused(self) -> None:
        """Ends it unless somebody opened it, whose it is then."""
        if not self._opened:
            for end in self.ends:
                os.close(end)
            self.kill()  # it has begun nothing
            await self.wait()

    def kill(self) -> None:
        """Raises ProcessLookupError when it has ended and was waited for: its number may be another's by now."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, signal.SIGKILL)


def fork_workers(count: int) -> list[ForkedWorker]:
    """So many workers. To be called before there is an event loop or a thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    workers: list[ForkedWorker] = []
    for _ in range(count):
        workers.append(_fork(workers))
    return workers


def _fork(earlier: Sequence[ForkedWorker]) -> ForkedWorker:
    (theirs_in, into), (out_of, theirs_out) = os.pipe(), os.pipe()
    with contextlib.suppress(AttributeError, OSError):  # Linux only, and only as much as a user may have
        fcntl.fcntl(out_of, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    pid = os.fork()
    if pid:
        os.close(theirs_in)
        os.close(theirs_out)
        return ForkedWorker(pid, into, out_of)
    code = 1
    try:
        # A worker ends with its input. A sibling that kept the other end of it open would keep it alive.
        for end in (into, out_of, *(end for worker in earlier for end in worker.ends)):
            os.close(end)
        os.dup2(theirs_in, 0)
        os.dup2(theirs_out, 1)
        os.close(theirs_in)
        os.close(theirs_out)
        worker_process.main()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)  # nothing of the parent's is cleaned up twice
