"""Event loops and signals: a signal asks the loop, whose work ends where it waits; it never raises inside of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.exit_codes import ExitCode
from indexer.runtime import signals
from tests.support.waiting import PATIENCE

INDEXER = Path(signals.__file__).parents[1]
# The thread of a server that is started inside a loop, and worker processes, which leave both signals to their parent.
OWN_LOOPS = {"runtime/signals.py", "embedded_pg/server.py", "ingest/dask_cluster.py", "ingest/worker_process.py"}

SCRIPT = """
import asyncio, os, signal, sys
from indexer.runtime import signals

async def work():
    try:
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000):  # the handler runs between two of these steps
            pass
        print("went on", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)

signals.handle_signals()
try:
    signals.run(work())
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_work_where_it_waits(name: str) -> None:
    script = SCRIPT.format(name=name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (130, ["went on", "cleaned up"], "")


FORCED = """
import asyncio, os, signal
from indexer import config
from indexer.cli.session import Session, SessionOptions
from indexer.errors import LeaseLostError
from indexer.exit_codes import ExitCode
from indexer.runtime import signals

signals.END_TIMEOUT_S = 0.2

async def work(stop):
    async with Session(SessionOptions(deployment=config.load("devnet"))) as session:
        session.push_async_callback(asyncio.sleep, 60)  # a server that does not answer
        stop.handled = {handled}
        if {fails}:
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
            raise LeaseLostError("somebody else projects")
        os.kill(os.getpid(), signal.SIGTERM)

signals.handle_signals()
signals.run_stoppable(work, ExitCode.DONE)
"""


@pytest.mark.parametrize(
    ("handled", "fails", "code"),
    [(True, True, ExitCode.LEASE_LOST), (False, True, ExitCode.LEASE_LOST), (True, False, ExitCode.DONE)],
)
def test_a_forced_end_keeps_the_code_of_the_error_that_is_known(handled: bool, fails: bool, code: int) -> None:
    script = FORCED.format(handled=handled, fails=fails)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_only_the_signal_module_starts_event_loops() -> None:
    found = {
        str(path.relative_to(INDEXER))
        for path in INDEXER.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("asyncio", "run"), ("asyncio", "Runner")}
    }  # fmt: skip
    assert found == OWN_LOOPS
