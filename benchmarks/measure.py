"""A side of a benchmark as processes of its own: wall time, CPU of it and of PostgreSQL, memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from indexer.embedded_pg.server import EmbeddedServer
from tests.support.daemon import environment

ROOT = Path(__file__).parents[1]
PROGRAM = str(Path(sys.executable).parent / "reya-indexer")
Digests = dict[str, tuple[int, str]]  # by table
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took. Seconds; `cpu` of its processes, `server_cpu` of PostgreSQL's, `node_cpu` of the node's; `peak`
    is the most MB resident in any one of its processes, `processes` how many were seen. `output`: what it said."""

    wall: float
    cpu: float
    server_cpu: float
    peak: float
    processes: int
    output: str = ""
    node_cpu: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items() if k != "output"}


def children(pid: int) -> list[int]:
    """The processes that it started and that still live."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, _read(path).split())
    return found


def family(pid: int) -> Iterator[int]:
    yield pid
    for child in children(pid):
        yield from family(child)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""


def _spent(pid: int) -> int:
    """Clock ticks of a process and of its ended children."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) if fields else 0


def server_cpu(pid: int) -> float:
    """CPU seconds of PostgreSQL: the postmaster with its ended children, and those that live."""
    return sum(map(_spent, family(pid))) / TICKS


class _Watch:
    """The memory of a process and of those it starts, looked at every 50 ms: VmHWM keeps what is between."""

    def __init__(self, pid: int) -> None:
        self.peak, self.seen = 0.0, set[int]()
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._over.wait(0.05):
            for pid in family(self._pid):
                self.seen.add(pid)
                for line in _read(Path(f"/proc/{pid}/status")).splitlines():
                    if line.startswith("VmHWM:"):
                        self.peak = max(self.peak, int(line.split()[1]) / 1024)

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def run(command: Sequence[str], postmaster: int, env: dict[str, str] | None = None, timeout: float = 600) -> Cost:
    """Runs a command to its end, `timeout` seconds at most. CPU counts the processes that it started and waited for.
    Raises RuntimeError with what it said when it fails."""
    with tempfile.TemporaryFile("w+") as output:
        before, started = server_cpu(postmaster), time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(env or {}), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        watch, killer = _Watch(process.pid), threading.Timer(timeout, process.kill)
        killer.start()
        try:
            _, status, spent = os.wait4(process.pid, 0)
        except BaseException:  # an interrupt: nothing of ours is left behind
            process.kill()
            raise
        finally:
            killer.cancel()
            watch.end()
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode} after {wall:.0f} s\n{text[-3000:]}")
    return Cost(
        wall, spent.ru_utime + spent.ru_stime, server_cpu(postmaster) - before, watch.peak, len(watch.seen), text
    )


class Databases:
    """Fresh databases of one server."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        status = server.status()
        assert status.pid is not None
        self.postmaster = status.pid
        self.migration: Cost | None = None  # what making the schema costs
        self._made = 0

    def fresh(self, *, migrated: bool = False) -> str:
        """The URL of an empty database, with the program's schema when it is to be `migrated`."""
        self._made += 1
        name = f"bench_{self._made}"
        if migrated:
            if self.migration is None:
                self.server.ensure_database("bench_schema")
                schema = {"DATABASE_URL": self.server.url("bench_schema")}
                self.migration = run([PROGRAM, "migrate"], self.postmaster, schema)
            asyncio.run(execute(self.server.url("postgres"), f"CREATE DATABASE {name} TEMPLATE bench_schema"))
        else:
            self.server.ensure_database(name)
        url = self.server.url(name)
        # What the sides before left to write is not this one's.
        asyncio.run(execute(url, "CHECKPOINT"))
        return url

    def drop(self, url: str) -> None:
        name = url.rpartition("/")[2]
        asyncio.run(execute(self.server.url("postgres"), f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def fetch(url: str, query: str, *args: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        found: list[asyncpg.Record] = await connection.fetch(query, *args)
    finally:
        await connection.close()
    return found


# Of the blocks those that have logs: which others are stored, and whose parents are known, is the indexer's affair.
_BLOCKS = (
    "(SELECT number, hash, timestamp FROM indexer.block b WHERE EXISTS"
    " (SELECT FROM indexer.raw_log r WHERE r.block_number = b.number))"
)


async def digests(url: str) -> Digests:
    """Of every table of `public`, of the raw logs and of their blocks: how many rows, and a sum over the hashes of
    whole rows, in which neither the order of rows nor that of columns counts."""
    tables = await fetch(
        url,
        "SELECT c.oid::regclass::text AS name, array_agg(a.attname::text ORDER BY a.attname) AS columns"
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE (c.relnamespace = 'public'::regnamespace AND c.relkind = 'r') OR c.oid = 'indexer.raw_log'::regclass"
        " GROUP BY c.oid",
    )
    sources = {
        row["name"]: f"(SELECT {', '.join(chr(34) + c + chr(34) for c in row['columns'])} FROM {row['name']})"
        for row in tables
    }
    found: Digests = {}
    for name, source in (sources | {"indexer.block": _BLOCKS}).items():
        query = f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {source} t"
        count, digest = (await fetch(url, query))[0]
        found[name] = (count, digest)
    return found
