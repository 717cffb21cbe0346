"""The bare floor: the events of a chain of benchmarks/chain.py in a plain table each, and nothing else.

    python -m benchmarks.bare_floor --node URL --database URL --head N [--workers N]

Fetch, slice, COPY. No keys, no indexes, no raw logs, no blocks, no checks: what a script of an afternoon would do when
only speed counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import asyncpg

from benchmarks.floor import FLUSH_LOGS, TOPIC0, Copier, Json, Source, Task, answers, arguments, run, split

PLACE = {"block_number": "bigint", "log_index": "integer", "transaction_hash": "text"}
NUMBER = "numeric(78,0)"
# Event -> its arguments as columns, in the order in which they are written.
EVENTS: dict[str, dict[str, str]] = {
    "PassivePerpMatchOrder": dict.fromkeys(
        ("market_id", "account_id", "order_base", "protocol_fee", "exchange_fee", "taker_fee", "referrer_fee"), NUMBER
    )
    | {"maker_payments": "numeric(78,0)[]"}
    | dict.fromkeys(("price", "referrer", "time"), NUMBER),
    "Transfer": {"from_address": "text", "to_address": "text", "amount": NUMBER},
    "Deposited": {"account_id": NUMBER, "collateral": "text", "amount": NUMBER, "sender": "text", "time": NUMBER},
    "Withdrawn": {"account_id": NUMBER, "collateral": "text", "amount": NUMBER, "sender": "text", "time": NUMBER},
    "TransferBetweenMarginAccounts": {
        "source": NUMBER, "destination": NUMBER, "collateral": "text", "amount": NUMBER, "sender": "text",
        "time": NUMBER,
    },
    "AccountOwnerUpdated": {"account_id": NUMBER, "new_owner": "text", "time": NUMBER},
    "AccountCreated": {"account_id": NUMBER, "owner": "text", "trigger_address": "text", "time": NUMBER},
    "AccountExecutedLiquidationBid": {
        "account_id": NUMBER, "liquidator": NUMBER, "hook": "text", "reward": NUMBER, "quote": "text",
        "markets": "numeric(78,0)[]", "inputs": "text[]", "success": "boolean", "keeper": NUMBER, "time": NUMBER,
    },
}  # fmt: skip
COLUMNS = {f"bare_{event.lower()}": (*PLACE, *columns) for event, columns in EVENTS.items()}

Read = Callable[[list[str], bytes], str]


def _order(t: list[str], b: bytes) -> str:
    n = int.from_bytes
    payments = ",".join([str(n(b[at : at + 32], "big", signed=True)) for at in range(352, 352 + 32 * b[351], 32)])
    return (
        f"{int(t[1], 16)}\t{int(t[2], 16)}\t{n(b[:32], 'big', signed=True)}\t{n(b[160:192])}\t{n(b[192:224])}"
        f"\t{n(b[224:256])}\t{n(b[288:320])}\t{{{payments}}}\t{n(b[64:96])}\t{n(b[96:128])}\t{n(b[128:160])}"
    )


def _transfer(t: list[str], b: bytes) -> str:
    return f"0x{t[1][26:]}\t0x{t[2][26:]}\t{int.from_bytes(b)}"


def _collateral(t: list[str], b: bytes) -> str:
    n = int.from_bytes
    return f"{int(t[1], 16)}\t0x{t[2][26:]}\t{n(b[:32])}\t0x{t[3][26:]}\t{n(b[32:])}"


def _moved(t: list[str], b: bytes) -> str:
    n = int.from_bytes
    return f"{int(t[1], 16)}\t{n(b[:32])}\t0x{t[2][26:]}\t{n(b[32:64])}\t0x{t[3][26:]}\t{n(b[64:])}"


def _owner(t: list[str], b: bytes) -> str:
    return f"{int(t[1], 16)}\t0x{t[2][26:]}\t{int.from_bytes(b)}"


def _created(t: list[str], b: bytes) -> str:
    return f"{int(t[1], 16)}\t0x{t[2][26:]}\t0x{t[3][26:]}\t{int.from_bytes(b)}"


def _bid(t: list[str], b: bytes) -> str:
    n, bid, count = int.from_bytes, b[128:], b[351]
    markets = ",".join([str(n(bid[at : at + 32])) for at in range(224, 224 + 32 * count, 32)])
    tails, inputs = bid[256 + 32 * count :], []
    for at in range(0, 32 * count, 32):
        start = n(tails[at : at + 32])
        inputs.append(f"0x{tails[start + 32 : start + 32 + n(tails[start : start + 32])].hex()}")
    return (
        f"{int(t[1], 16)}\t{n(bid[:32])}\t0x{bid[44:64].hex()}\t{n(bid[64:96])}\t0x{bid[108:128].hex()}\t{{{markets}}}"
        f"\t{{{','.join(inputs)}}}\t{'t' if b[63] else 'f'}\t{n(b[64:96])}\t{n(b[96:128])}"
    )


READ: dict[str, tuple[str, Read]] = {
    TOPIC0[event]: (f"bare_{event.lower()}", read)
    for event, read in (
        ("PassivePerpMatchOrder", _order), ("Transfer", _transfer), ("Deposited", _collateral),
        ("Withdrawn", _collateral), ("TransferBetweenMarginAccounts", _moved), ("AccountOwnerUpdated", _owner),
        ("AccountCreated", _created), ("AccountExecutedLiquidationBid", _bid),
    )
}  # fmt: skip


async def fetch(source: Source, first: int, last: int) -> tuple[int, list[Json]]:
    logs = await source.logs(first, last)
    return len(logs), logs


def add(lines: dict[str, list[str]], logs: list[Json]) -> None:
    for log in logs:
        topics = log["topics"]
        table, read = READ[topics[0]]
        lines[table].append(
            f"{int(log['blockNumber'], 16)}\t{int(log['logIndex'], 16)}\t{log['transactionHash']}"
            f"\t{read(topics, bytes.fromhex(log['data'][2:]))}\n"
        )


async def work(task: Task) -> int:
    """The number of logs."""
    lines: dict[str, list[str]] = {table: [] for table in COLUMNS}
    copier, waiting, total = Copier(COLUMNS, [tuple(COLUMNS)]), 0, 0
    async with aiohttp.ClientSession() as session:
        await copier.open(task.database)
        async for logs in answers(Source(session, task.node), task.first, task.last, fetch):
            add(lines, logs)
            total += len(logs)
            waiting += len(logs)
            if waiting >= FLUSH_LOGS:
                await copier.flush(lines)
                waiting = 0
            await asyncio.sleep(0)
        await copier.flush(lines)
        await copier.close()
    return total


async def prepare(database: str) -> None:
    """The tables."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database)
    for event, columns in EVENTS.items():
        named = ", ".join(f"{name} {kind}" for name, kind in (PLACE | columns).items())
        await connection.execute(f"CREATE TABLE bare_{event.lower()} ({named})")
    await connection.close()


def main() -> None:
    given = arguments("Write the events of a chain without anything else.")
    print(sum(run(split(given.node, given.database, given.head, given.workers), work)), "logs")


if __name__ == "__main__":
    main()
