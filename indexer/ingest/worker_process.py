"""Entry point of a worker process; `ingest/process_pool.py` is at the other end of its pipes.

It reads a WorkerConfig, then Tasks and LearnedLimitsByEndpoint. It writes a CommitReport for each commit, a Heartbeat
now and then while it works, and for each Task a TaskDone or the error. It exits when its input ends, and so with
whoever started it.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import Callable

from indexer.errors import IndexerError, error_label
from indexer.ingest.worker import Heartbeat, Task, TaskDone, Worker, WorkerConfig
from indexer.ingest.worker_protocol import encode_message, read_message
from indexer.runtime import log_setup
from indexer.runtime.secrets import remember_files
from indexer.runtime.tasks import background_task, cancel_and_wait
from indexer.runtime.tuning import BULK, tune_gc

HEARTBEAT_INTERVAL_S = 5.0
# Of a worker next to the projector, which everything waits for: the worker takes what the projector leaves of the
# machine. Otherwise workers run ahead at its expense, and at the end it is alone on all processors.
NICE = 5


def picklable_error(error: Exception) -> Exception:
    """Return the error itself if it can be pickled, otherwise an IndexerError with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return IndexerError(" ".join(f"{error_label(error)}: {error}".split()))
    return error


async def _open_channel() -> tuple[asyncio.StreamReader, Callable[[object], None]]:
    """Return the source of messages on file descriptor 0, and what sends one on file descriptor 1."""
    loop = asyncio.get_running_loop()
    source = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(source), os.fdopen(0, "rb", 0))
    # Output that libraries print must not come between the messages.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(message: object) -> None:
        out.write(encode_message(message))
        out.flush()

    return source, send


async def _serve() -> None:
    source, send = await _open_channel()
    config = await read_message(source)
    if not isinstance(config, WorkerConfig):
        return
    log_setup.configure(config.log_format, quiet=True)
    if config.hand_over:
        os.nice(NICE)
    worker, running = Worker(config), None

    async def send_heartbeats() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            send(Heartbeat())

    async def run_task(task: Task) -> None:
        try:
            async with background_task(send_heartbeats()):
                await worker.ingest(*task, send)
        except Exception as error:
            send(picklable_error(error))
        else:
            send(TaskDone())

    try:
        while (message := await read_message(source)) is not None:
            if isinstance(message, Task):
                running = asyncio.create_task(run_task(message))
            else:
                worker.import_limits(message)
    finally:
        if running is not None:
            await cancel_and_wait(running)
        await worker.close()


def main() -> None:
    """Run a worker on file descriptors 0 and 1, in `python -m indexer.ingest.worker_process` or in a fork."""
    # Ctrl-C goes to the whole process group, but the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    remember_files()
    tune_gc(BULK)
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
