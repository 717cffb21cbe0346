"""A worker as a process of its own; `ingest/crew.py` is the other end of its pipes.

In come a Setup, then Tasks and Sizes; out go a Report of each commit, a Beat now and then while it works, and for
each Task Done or the error. It ends when its input does: with whoever started it.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal

from indexer.errors import IndexerError, error_label
from indexer.ingest.worker import Heartbeat, Task, TaskDone, Worker, WorkerConfig
from indexer.ingest.worker_protocol import encode_message, read_message
from indexer.runtime import log_setup
from indexer.runtime.tasks import background_task, cancel_and_wait
from indexer.runtime.tuning import BULK, tune_gc

HEARTBEAT_INTERVAL_S = 5.0  # seconds
# Beside the projection, which everything waits for: a worker takes what it leaves of the machine. Without, workers run
# ahead at its expense, and at the end it is alone on all processors.
NICE = 5


def picklable_error(error: Exception) -> Exception:
    """The error itself where it can be sent, else one of ours with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return IndexerError(" ".join(f"{error_label(error)}: {error}".split()))
    return error


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    source = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(source), os.fdopen(0, "rb", 0))
    # What libraries print must not come between the messages.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(message: object) -> None:
        out.write(encode_message(message))
        out.flush()

    setup = await read_message(source)
    if not isinstance(setup, WorkerConfig):
        return
    log_setup.configure(setup.log_format, quiet=True)
    if setup.hand_over:
        os.nice(NICE)
    worker, work = Worker(setup), None

    async def beat() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            send(Heartbeat())

    async def do(task: Task) -> None:
        try:
            async with background_task(beat()):
                await worker.ingest(*task, send)
        except Exception as error:
            send(picklable_error(error))
        else:
            send(TaskDone())

    try:
        while (message := await read_message(source)) is not None:
            if isinstance(message, Task):
                work = asyncio.create_task(do(message))
            else:
                worker.import_limits(message)
    finally:
        if work is not None:
            await cancel_and_wait(work)
        await worker.close()


def main() -> None:
    """Entry point of `python -m indexer.ingest.worker_process`, and of a fork. Reads from 0 and writes to 1."""
    # Ctrl-C goes to the whole process group; who started this one decides when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tune_gc(BULK)
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
