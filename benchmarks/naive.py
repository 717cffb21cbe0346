"""The naive loop: web3.py as its documentation shows it, one table per event.

    python -m benchmarks.naive --node URL --database URL --head N

get_logs over 2,000 blocks, process_log, one INSERT an event. No checks, no block times, nothing to resume from.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from web3 import HTTPProvider, Web3
from web3.contract.base_contract import BaseContractEvent

from benchmarks.chain import CONTRACTS, MIX, entry_of
from benchmarks.floor import ABIS, TOPIC0, arguments

RANGE = 2_000


def events(w3: Web3) -> dict[str, BaseContractEvent]:
    """By topic0."""
    found: dict[str, BaseContractEvent] = {}
    for name in MIX:
        address = Web3.to_checksum_address(ABIS.addresses[CONTRACTS.get(name, "core")])
        found[TOPIC0[name]] = w3.eth.contract(address=address, abi=[entry_of(ABIS, name)]).events[name]()
    return found


def value_of(argument: Any) -> str:
    """An argument as text: what is nested goes into one column."""
    return "0x" + argument.hex() if isinstance(argument, bytes) else str(argument)


async def create(connection: asyncpg.Connection[Any], decoders: dict[str, BaseContractEvent]) -> dict[str, str]:
    """One table per event; the INSERT by topic0."""
    inserts = {}
    for topic0, event in decoders.items():
        names = [i["name"] for i in event.abi["inputs"]]
        columns = ", ".join(f'"{name}" text' for name in names)
        table = f"naive_{event.abi['name'].lower()}"
        await connection.execute(f"CREATE TABLE {table} (id text PRIMARY KEY, block bigint, {columns})")
        inserts[topic0] = f"INSERT INTO {table} VALUES ({', '.join(f'${n + 1}' for n in range(len(names) + 2))})"
    return inserts


async def index(node: str, database: str, head: int) -> int:
    """The number of events."""
    w3 = Web3(HTTPProvider(node))
    decoders = events(w3)
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database)
    inserts, total = await create(connection, decoders), 0
    addresses = [Web3.to_checksum_address(a) for a in ABIS.addresses.values()]
    for first in range(0, head + 1, RANGE):
        asked = {"fromBlock": first, "toBlock": min(first + RANGE - 1, head), "address": addresses}
        for log in w3.eth.get_logs(asked):  # type: ignore[arg-type]  # a dict of this shape is what it takes
            topic0 = "0x" + log["topics"][0].hex().removeprefix("0x")
            args = decoders[topic0].process_log(log)["args"]
            values = [value_of(args[i["name"]]) for i in decoders[topic0].abi["inputs"]]
            id_ = f"{log['transactionHash'].hex()}-{log['logIndex']}"
            await connection.execute(inserts[topic0], id_, log["blockNumber"], *values)
            total += 1
    await connection.close()
    return total


def main() -> None:
    given = arguments("Index a chain with web3.py.")
    print(asyncio.run(index(given.node, given.database, given.head)), "logs")


if __name__ == "__main__":
    main()
