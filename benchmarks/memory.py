"""What the daemon holds in memory, and what a log takes on disk.

    python -m benchmarks.memory [--behind 20000] [--follow 3000]

The daemon starts on an empty database, `--behind` blocks of about five logs each behind a simulated node, and
catches up; then it follows `--follow` blocks more, attesting as it does by itself. Resident memory is the kernel's
(VmRSS, VmHWM). Disk is the database's growth over an empty schema, by the logs that are stored then: raw logs, their
rows in the public tables, all indexes, and what rows of the unfinalized window were before. Nothing has a limit here.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import asyncpg

from benchmarks.chain import CHAIN_ID
from benchmarks.figures import Figure, report
from benchmarks.latency import Chain, committed
from indexer.schema.migrate import upgrade_async
from tests.support.daemon import Daemon
from tests.support.postgres import own_postgres
from tests.support.simchain.chain import Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.view import Depth

AT_ONCE = 4  # blocks that the head moves on by, several times a second: a few hours of a chain in minutes
PAUSE = 0.05


def memory(pid: int, what: str) -> float:
    """VmRSS (now) or VmHWM (the most so far), in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no {what}")


async def size(url: str) -> tuple[int, int]:
    """Bytes of the database, and raw logs in it."""
    connection = await asyncpg.connect(url)
    try:
        logs: int = await connection.fetchval("SELECT count(*) FROM indexer.raw_log")
        return await connection.fetchval("SELECT pg_database_size(current_database())"), logs
    finally:
        await connection.close()


async def measure(url: str, behind: int, follow: int, folder: Path) -> list[Figure]:
    await upgrade_async(url)
    empty, _ = await size(url)
    async with SimNode(Tree(), chain_id=CHAIN_ID) as node:
        node.finalized, node.safe = Depth(40), Depth(20)
        chain = Chain(node)
        for _ in range(behind):
            chain.grow()
        arguments = ["--rpc-url", node.url, "--ws-url", node.ws_url, "--http-port", "0"]
        daemon = Daemon(arguments, {"DATABASE_URL": url}, folder / "daemon.log")
        try:
            await committed(url, behind)
            caught_up = memory(daemon.process.pid, "VmHWM")
            for _ in range(follow // AT_ONCE):
                for _ in range(AT_ONCE):
                    chain.grow()
                await asyncio.sleep(PAUSE)
            await committed(url, behind + follow // AT_ONCE * AT_ONCE)
            now, most = memory(daemon.process.pid, "VmRSS"), memory(daemon.process.pid, "VmHWM")
        finally:
            daemon.terminate()
            daemon.kill()
    full, logs = await size(url)
    return [
        Figure("memory, most while it catches up", caught_up, " MB", note=f"{behind:,} blocks"),
        Figure("memory at the head", now, " MB", note=f"after {follow:,} blocks more; the most ever {most:.0f} MB"),
        Figure("disk", (full - empty) / logs, " bytes a log", note=f"{logs:,} logs, {(full - empty) / 2**20:.0f} MiB"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of the daemon, disk of a log.")
    parser.add_argument("--behind", type=int, default=20_000)
    parser.add_argument("--follow", type=int, default=3_000)
    given = parser.parse_args()
    with own_postgres("bench", None) as server:
        server.ensure_database("bench_memory")
        url = server.url("bench_memory")
        print(report(asyncio.run(measure(url, given.behind, given.follow, server.data_dir))))


if __name__ == "__main__":
    main()
