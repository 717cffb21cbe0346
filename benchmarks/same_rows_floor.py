"""The same-rows floor: the very rows that the indexer writes for a chain of benchmarks/chain.py, and nothing else.

    python -m benchmarks.same_rows_floor --node URL --database URL --head N [--workers N]

Fetch, slice, COPY into the tables of the program's own schema with all their keys and indexes. No check at all: not
that a block follows its parent, not that an answer is complete or fits the question, no ABI, no lease, no coverage,
nothing to resume from. The benchmark compares the rows with the indexer's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
import asyncpg

from benchmarks.floor import ABIS, FLUSH_LOGS, TOPIC0, Copier, Json, Source, Task, answers, arguments, run, split

POSITION = ("transaction_hash", "block_timestamp", "block_number", "unique_id")
# Columns that are NULL in every row of this chain are left out.
COLUMNS = {
    "indexer.raw_log": (
        "block_number", "log_index", "address", "transaction_hash", "transaction_index", "topics", "data",
    ),
    "indexer.block": ("number", "hash", "timestamp"),
    "orders": (
        "id", "market_id", "account_id", "executed_base", "fee", "price", "is_match_order", "liquidation_type",
        "position_session",
        "protocol_fee_credit", "exchange_fee_credit", "referrer_fee_credit", "pool_fee_credit", "referrer_account_id",
        *POSITION, "created_at",
    ),
    "order_history": (
        "id", "market_id", "account_id", "order_base", "fee", "price", "type", "processed", "price_variation_pnl",
        "average_entry_price", *POSITION, "created_at",
    ),
    "liquidation_history_details": (
        "id", "account_id", "market_id", "base", "execution_price", "fees", *POSITION[:2], "unique_id", "owner_address",
    ),
    "rebate_fee_history": (
        "id", "referrer_account_id", "referee_account_id", "token", "amount", "market_id", *POSITION,
        "referee_wallet_address",
    ),
    "token_transfer": ("id", "token", "from_address", "to_address", "amount", *POSITION, "created_at"),
    "margin_accounts_balance_entries": (
        "id", "account_id", "collateral", "amount", "type", "counterparty_account_id", "sender", *POSITION,
    ),
    "account_owner_updated_history": ("id", "account_id", "new_owner", *POSITION),
    "account_owner_updated_snapshot": ("account_id", "new_owner", *POSITION),
    "positions": ("market_id", "account_id", "base", "session", "average_entry_price", *POSITION),
    "position_raw": ("market_id", "account_id", "base", "average_entry_price_off_chain_tracker", *POSITION),
}  # fmt: skip
SNAPSHOT = "account_owner_updated_snapshot"
AT_THE_END = (SNAPSHOT, "positions", "position_raw")
GROUPS = (("orders",), tuple(t for t in COLUMNS if t not in ("orders", *AT_THE_END)))
E18, POOL = 10**18, 2  # the pool's account
# The word of the data that holds the block's time.
TIME_WORD = {
    TOPIC0[event]: word
    for event, word in (
        ("PassivePerpMatchOrder", 4), ("Deposited", 1), ("Withdrawn", 1), ("TransferBetweenMarginAccounts", 2),
        ("AccountOwnerUpdated", 0), ("AccountCreated", 0), ("AccountExecutedLiquidationBid", 3),
    )
}  # fmt: skip
BID = TOPIC0["AccountExecutedLiquidationBid"]


class Place(NamedTuple):
    """Where a log stands: the row's id, the POSITION columns as text, the block's time as a timestamp."""

    id: str
    position: str
    created_at: str


class Owner(NamedTuple):
    """Of an account: its row, and whether a creation told it, which changes nothing where a row is there already."""

    wallet: str
    position: str
    created: bool


class Order(NamedTuple):
    """An order whose position is not known yet: what stands before and after the columns that follow from it."""

    market: int
    account: int
    base: int
    price: int
    order: tuple[str, str]
    history: tuple[str, str]
    place: Place


class Result(NamedTuple):
    """What only all processes together know: the owners, and rows (table, account, line without its end) that need an
    owner from an earlier part of the chain; the positions, or in a later part the orders that make them."""

    owners: dict[int, Owner]
    waiting: list[tuple[str, int, str]]
    positions: Positions
    orders: list[Order]


class Positions:
    """Base, average entry price, session and place of each market and account: what bare match orders tell of them."""

    def __init__(self) -> None:
        self.of: dict[tuple[int, int], tuple[int, int | None, int, str]] = {}

    def write(self, lines: dict[str, list[str]], o: Order) -> None:
        """The two rows of an order; the pool is on the other side unless it is a liquidation."""
        entry, session, variation = self.fill(o.market, o.account, o.base, o.price, o.place)
        if o.history[0].endswith("order") and o.account != POOL:
            self.fill(o.market, POOL, -o.base, o.price, o.place)
        lines["orders"].append(f"{o.order[0]}\t{session}\t{o.order[1]}")
        processed, average = "t" if variation == "\\N" else "f", "\\N" if entry is None else entry
        lines["order_history"].append(f"{o.history[0]}\t{processed}\t{variation}\t{average}\t{o.history[1]}")

    def fill(self, market: int, account: int, base: int, price: int, place: Place) -> tuple[int | None, int, str]:
        """Average entry price, session, PnL of the price; divisions as the contracts divide."""
        held, entry, session, _ = self.of.get((market, account), (0, None, 0, ""))
        after, variation = held + base, "\\N"
        if held == 0 or (held > 0) == (base > 0):
            if held:
                entry = ((entry or 0) * abs(held) + price * abs(base)) // abs(after)
            else:
                entry, session = price, session + 1
        else:
            gain = min(abs(base), abs(held)) * (price - (entry or 0)) * (1 if held > 0 else -1)
            variation = str(gain // E18 if gain >= 0 else -(-gain // E18))
            if abs(base) >= abs(held):
                entry, session = (price, session + 1) if after else (None, session)
        self.of[market, account] = after, entry, session, place.position
        return entry, session, variation

    def rows(self, lines: dict[str, list[str]]) -> None:
        for (market, account), (base, entry, session, position) in self.of.items():
            average = "\\N" if entry is None else entry
            lines["positions"].append(f"{market}\t{account}\t{base}\t{session}\t{average}\t{position}\n")
            lines["position_raw"].append(f"{market}\t{account}\t{base}\t{average}\t{position}\n")


class Rows:
    """Logs to lines of COPY text, by table. `begins`: these are the chain's first."""

    def __init__(self, begins: bool) -> None:
        self.begins, self.positions, self.orders = begins, Positions(), list[Order]()
        self.lines: dict[str, list[str]] = {table: [] for table in COLUMNS}
        self.owners: dict[int, Owner] = {}
        self.waiting: list[tuple[str, int, str]] = []
        self.ranked: set[tuple[str, str]] = set()
        self._rusd = ABIS.addresses["rusd"]
        self._of: dict[str, Callable[[list[str], str, Place, Json], None]] = {
            TOPIC0["PassivePerpMatchOrder"]: self._order,
            TOPIC0["Transfer"]: self._transfer,
            TOPIC0["Deposited"]: self._deposited,
            TOPIC0["Withdrawn"]: self._withdrawn,
            TOPIC0["TransferBetweenMarginAccounts"]: self._moved,
            TOPIC0["AccountOwnerUpdated"]: self._owner_updated,
            TOPIC0["AccountCreated"]: self._created,
            BID: lambda topics, data, place, log: None,
        }

    def add(self, logs: list[Json], times: dict[str, int]) -> None:
        """The logs of whole blocks."""
        self.ranked = {
            (log["transactionHash"], log["topics"][1])
            for log in logs
            if log["topics"][0] == BID and log["data"][129] == "1"
        }
        raw, blocks = self.lines["indexer.raw_log"], self.lines["indexer.block"]
        block, number, created_at, time, of = "", 0, "", 0, self._of
        for log in logs:
            topics, data, tx, index = log["topics"], log["data"][2:], log["transactionHash"], int(log["logIndex"], 16)
            if log["blockNumber"] != block:
                block = log["blockNumber"]
                number, time = int(block, 16), times[block]
                created_at = datetime.fromtimestamp(time, UTC).isoformat()[:19]
                blocks.append(f"{number}\t\\\\x{log['blockHash'][2:]}\t{time}\n")
            raw.append(
                f"{number}\t{index}\t\\\\x{log['address'][2:]}\t\\\\x{tx[2:]}\t{int(log['transactionIndex'], 16)}"
                f"\t\\\\x{''.join([t[2:] for t in topics])}\t\\\\x{data}\n"
            )
            place = Place(f"{tx}-{index}", f"{tx}\t{time}\t{number}\t{number * 100_000 + index}", created_at)
            of[topics[0]](topics, data, place, log)

    def _order(self, topics: list[str], data: str, place: Place, log: Json) -> None:
        b, read = bytes.fromhex(data), int.from_bytes
        market, account, base = int(topics[1], 16), int(topics[2], 16), read(b[:32], "big", signed=True)
        price, referrer, rebate, fee = read(b[64:96]), read(b[96:128]), read(b[288:320]), read(b[224:256])
        ranked = (log["transactionHash"], topics[2]) in self.ranked
        main = f"{place.id}\t{market}\t{account}\t{base}\t{fee}\t{price}"
        end = f"{place.position}\t{place.created_at}\n"
        credits = f"{read(b[160:192])}\t{read(b[192:224])}\t{rebate}\t{read(b[352:384], 'big', signed=True)}"
        told = f"{main}\t{'f' if ranked else 't'}\t{1 if ranked else -1}", f"{credits}\t{referrer}\t{end}"
        history = f"{main}\t{'liquidation' if ranked else 'order'}", end
        order = Order(market, account, base, price, told, history, place)
        if self.begins:
            self.positions.write(self.lines, order)
        else:
            self.orders.append(order)
        if ranked:
            tx, time, _, unique_id = place.position.split("\t")
            line = f"{place.id}\t{account}\t{market}\t{base}\t{price}\t{fee}\t{tx}\t{time}\t{unique_id}"
            self._with_owner("liquidation_history_details", account, line)
        if rebate and referrer:
            line = f"{place.id}\t{referrer}\t{account}\t{self._rusd}\t{rebate}\t{market}\t{place.position}"
            self._with_owner("rebate_fee_history", account, line)

    def _with_owner(self, table: str, account: int, line: str) -> None:
        owner = self.owners.get(account)
        if owner is None:
            self.waiting.append((table, account, line))
        else:
            self.lines[table].append(f"{line}\t{owner.wallet}\n")

    def _transfer(self, topics: list[str], data: str, place: Place, log: Json) -> None:
        self.lines["token_transfer"].append(
            f"{place.id}\t{log['address']}\t0x{topics[1][26:]}\t0x{topics[2][26:]}\t{int(data, 16)}\t{place.position}"
            f"\t{place.created_at}\n"
        )

    def _entry(self, id_: str, account: int, amount: int, other: object, kind: str, topics: list[str], at: str) -> None:
        self.lines["margin_accounts_balance_entries"].append(
            f"{id_}\t{account}\t0x{topics[2][26:]}\t{amount}\t{kind}\t{other}\t0x{topics[3][26:]}\t{at}\n"
        )

    def _deposited(self, topics: list[str], data: str, place: Place, log: Json) -> None:
        self._entry(place.id, int(topics[1], 16), int(data[:64], 16), "\\N", "deposit", topics, place.position)

    def _withdrawn(self, topics: list[str], data: str, place: Place, log: Json) -> None:
        self._entry(place.id, int(topics[1], 16), -int(data[:64], 16), "\\N", "withdrawal", topics, place.position)

    def _moved(self, topics: list[str], data: str, place: Place, log: Json) -> None:
        source, destination, amount = int(topics[1], 16), int(data[:64], 16), int(data[64:128], 16)
        self._entry(place.id, source, -amount, destination, "transfer", topics, place.position)
        self._entry(f"{place.id}-1", destination, amount, source, "transfer", topics, place.position)

    def _owner_updated(self, topics: list[str], data: str, place: Place, log: Json) -> None:
        account, wallet = int(topics[1], 16), "0x" + topics[2][26:]
        self.owners[account] = Owner(wallet, place.position, False)
        self.lines["account_owner_updated_history"].append(f"{place.id}\t{account}\t{wallet}\t{place.position}\n")

    def _created(self, topics: list[str], data: str, place: Place, log: Json) -> None:
        account = int(topics[1], 16)
        if account not in self.owners:
            self.owners[account] = Owner("0x" + topics[2][26:], place.position, True)


async def fetch(source: Source, first: int, last: int) -> tuple[int, tuple[list[Json], dict[str, int]]]:
    """Logs, and the times of their blocks: from the logs, else from events that carry them, else from headers."""
    logs = await source.logs(first, last)
    if logs and "blockTimestamp" in logs[0]:
        return len(logs), (logs, {log["blockNumber"]: int(log["blockTimestamp"], 16) for log in logs})
    times: dict[str, int] = {}
    lacking: set[str] = set()
    for log in logs:
        block, word = log["blockNumber"], TIME_WORD.get(log["topics"][0])
        if block in times:
            continue
        if word is None:
            lacking.add(block)
        else:
            times[block] = int(log["data"][2 + 64 * word : 66 + 64 * word], 16)
    lacking -= times.keys()
    return len(logs), (logs, times | await source.times(lacking) if lacking else times)


async def work(task: Task) -> Result:
    rows, copier, waiting = Rows(task.first == 0), Copier(COLUMNS, GROUPS), 0
    async with aiohttp.ClientSession() as session:
        await copier.open(task.database)
        async for logs, times in answers(Source(session, task.node), task.first, task.last, fetch):
            rows.add(logs, times)
            waiting += len(logs)
            if waiting >= FLUSH_LOGS:
                await copier.flush(rows.lines)
                waiting = 0
            await asyncio.sleep(0)
        await copier.flush(rows.lines)
        await copier.close()
    return Result(rows.owners, rows.waiting, rows.positions, rows.orders)


async def finish(database: str, results: list[Result]) -> None:
    """The rows that need the owners or positions of all parts, and the owners and positions themselves."""
    owners: dict[int, Owner] = {}
    positions = results[0].positions
    lines: dict[str, list[str]] = {table: [] for table in COLUMNS}
    for result in results:
        for table, account, line in result.waiting:
            known = owners.get(account)
            lines[table].append(f"{line}\t{known.wallet if known else chr(92) + 'N'}\n")
        for order in result.orders:
            positions.write(lines, order)
        owners |= {a: o for a, o in result.owners.items() if not (o.created and a in owners)}
    lines[SNAPSHOT] = [f"{account}\t{o.wallet}\t{o.position}\n" for account, o in owners.items()]
    positions.rows(lines)
    copier = Copier(COLUMNS, [tuple(COLUMNS)])
    await copier.open(database)
    await copier.flush(lines)
    await copier.close()


async def prepare(database: str) -> None:
    """The partition that the rows go to."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database)
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS indexer.raw_log_p0 PARTITION OF indexer.raw_log FOR VALUES FROM (0) TO (10000000)"
    )
    await connection.close()


def main() -> None:
    given = arguments("Write the rows of the indexer without any of its checks.")
    asyncio.run(finish(given.database, run(split(given.node, given.database, given.head, given.workers), work)))


if __name__ == "__main__":
    main()
