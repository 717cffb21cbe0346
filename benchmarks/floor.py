"""What the floors share: logs fetched ahead, COPY in the background, the chain split over processes."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple, TypeVar

import aiohttp
import asyncpg
import orjson

from benchmarks.chain import MIX, abi_of
from tests.support.anvil.emission import Abis

T = TypeVar("T")
Json = dict[str, Any]

LOGS_AN_ANSWER = 1_000
HEADERS_A_REQUEST = 100
FLUSH_LOGS = 10_000

ABIS = Abis("reya")
TOPIC0 = {event: "0x" + abi_of(ABIS, event)[1].hex() for event in MIX}
ADDRESSES = tuple(ABIS.addresses.values())


class Task(NamedTuple):
    """What one process works on: blocks first..last of the node at `node`, into `database`."""

    node: str
    database: str
    first: int
    last: int


class Source:
    """The node. Nothing is checked: an error is a KeyError."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def _post(self, body: Any) -> Any:
        async with self.session.post(self.url, data=orjson.dumps(body)) as answer:
            return orjson.loads(await answer.read())

    async def logs(self, first: int, last: int) -> list[Json]:
        asked = {"fromBlock": hex(first), "toBlock": hex(last), "address": ADDRESSES}
        answer = await self._post({"jsonrpc": "2.0", "id": 1, "method": "eth_getLogs", "params": [asked]})
        found: list[Json] = answer["result"]
        return found

    async def times(self, blocks: Collection[str]) -> dict[str, int]:
        """Timestamps by block number, both as the node writes them, of a few hundred blocks at most."""
        wanted = list(blocks)
        found: dict[str, int] = {}
        for at in range(0, len(wanted), HEADERS_A_REQUEST):
            calls = [
                {"jsonrpc": "2.0", "id": n, "method": "eth_getBlockByNumber", "params": [n, False]}
                for n in wanted[at : at + HEADERS_A_REQUEST]
            ]
            found |= {one["id"]: int(one["result"]["timestamp"], 16) for one in await self._post(calls)}
        return found


async def answers(
    source: Source, first: int, last: int, fetch: Callable[[Source, int, int], Awaitable[tuple[int, T]]]
) -> AsyncIterator[T]:
    """What `fetch` gives for range after range, each asked for while the one before is worked on. It tells the number
    of logs as well; ranges grow and shrink to about LOGS_AN_ANSWER."""
    size, at = 50, first

    def begin() -> asyncio.Task[tuple[int, T]]:
        nonlocal at
        span = (at, min(last, at + size - 1))
        at = span[1] + 1
        return asyncio.ensure_future(fetch(source, *span))

    coming = begin()
    while True:
        asked = size
        logs, answer = await coming
        size = max(1, min(2_000, asked * LOGS_AN_ANSWER // max(1, logs)))
        if at > last:
            yield answer
            return
        coming = begin()
        await asyncio.sleep(0)  # the request leaves before the answer is worked on
        yield answer


class Copier:
    """COPY in the background, a connection for each group of tables; one flush is a transaction on each."""

    def __init__(self, columns: Mapping[str, Sequence[str]], groups: Iterable[Sequence[str]]) -> None:
        self.columns, self.groups = columns, list(groups)
        self._running: list[asyncio.Task[None]] = []
        self._connections: list[asyncpg.Connection[Any]] = []

    async def open(self, database: str) -> None:
        self._connections = [await asyncpg.connect(database) for _ in self.groups]

    async def flush(self, lines: Mapping[str, list[str]]) -> None:
        """Takes the lines, which are then empty. Waits for the flush before, not for this one."""
        texts = {table: "".join(some).encode() for table, some in lines.items() if some}
        for some in lines.values():
            some.clear()
        await self.wait()
        self._running = [
            asyncio.ensure_future(self._copy(connection, {t: texts[t] for t in group if t in texts}))
            for connection, group in zip(self._connections, self.groups, strict=True)
        ]
        await asyncio.sleep(0)

    async def _copy(self, connection: asyncpg.Connection[Any], texts: Mapping[str, bytes]) -> None:
        async with connection.transaction():
            for table, text in texts.items():
                schema, _, name = table.rpartition(".")
                # asyncpg takes a buffer too, and hands nothing to a thread then; its stubs do not know.
                source: Any = memoryview(text)
                await connection.copy_to_table(
                    name, source=source, columns=self.columns[table], schema_name=schema or "public", format="text"
                )

    async def wait(self) -> None:
        for task in self._running:
            await task
        self._running = []

    async def close(self) -> None:
        await self.wait()
        for connection in self._connections:
            await connection.close()


def split(node: str, database: str, head: int, workers: int) -> list[Task]:
    """Blocks 0..head in equal parts."""
    edges = [(head + 1) * n // workers for n in range(workers + 1)]
    return [Task(node, database, edges[n], edges[n + 1] - 1) for n in range(workers)]


def run(tasks: Sequence[Task], work: Callable[[Task], Awaitable[T]]) -> list[T]:
    """Works on the first task here and on each other in a process of its own; the results in order."""
    context = multiprocessing.get_context("fork")
    started: list[tuple[Any, Pipe]] = []
    for task in tasks[1:]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_child, args=(task, work, theirs))
        process.start()
        started.append((process, ours))
    results = [asyncio.run(_awaited(work, tasks[0]))]
    for process, pipe in started:
        results.append(pipe.recv())
        process.join()
    return results


def _child(task: Task, work: Callable[[Task], Awaitable[Any]], pipe: Pipe) -> None:
    pipe.send(asyncio.run(_awaited(work, task)))


async def _awaited(work: Callable[[Task], Awaitable[T]], task: Task) -> T:
    return await work(task)


def arguments(description: str) -> argparse.Namespace:
    """--node, --database, --head, --workers."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--node", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--head", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args()
