"""What projections work on: decoded events grouped by transaction, and the ledger that collects their rows.

A projection is a pair of pure functions per event: `keys(event)` names the state rows it reads or changes, so that the
store can load them first; `apply(ledger, tx, event)` writes rows into the ledger. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from indexer.chain.types import Log
from indexer.decode.registry import Registry
from indexer.errors import DecodeMismatchError

Row = dict[str, Any]
Key = tuple[Any, ...]
StateKey = tuple[str, Key]
Values = tuple[Any, ...]
ORIGIN_COLUMNS = (
    "transaction_hash",
    "block_timestamp",
    "block_number",
    "unique_id",
)  # columns that say where a row comes from
LOGS_PER_BLOCK = 100_000  # unique_id = block number * 100000 + log index
_LAST_SECOND = 253_402_300_799  # 9999-12-31: beyond it Python has no datetime


@dataclass(slots=True)
class Event:
    """One log, decoded. `name` is None when it has no decoder or does not fit it; `reason` then says which.

    `block_time` is the block's timestamp in seconds; `time` the event's own `blockTimestamp` where it carries one.
    `pool`: the account on the other side of a match order (`name_pools`).
    """

    block_number: int
    block_time: int
    log_index: int
    transaction_hash: str
    address: str
    topic0: str
    name: str | None
    args: dict[str, Any]
    erc20: bool = False
    reason: str = ""
    detail: str = ""
    pool: int | None = None
    _origin: Values | None = None

    @property
    def id(self) -> str:
        return f"{self.transaction_hash}-{self.log_index}"

    @property
    def unique_id(self) -> int:
        return self.block_number * LOGS_PER_BLOCK + self.log_index

    @property
    def time(self) -> int:
        own = self.args.get("blockTimestamp")
        return own if isinstance(own, int) else self.block_time

    @property
    def created_at(self) -> datetime | None:
        """The block's time, UTC, for timestamp(3) columns; None when no calendar reaches it."""
        return _calendar(self.block_time)

    @property
    def origin_values(self) -> Values:
        """The values of ORIGIN_COLUMNS. Each row of the event has them, and the positions that it moves."""
        place = self._origin
        if place is None:
            place = self._origin = self.transaction_hash, self.time, self.block_number, self.unique_id
        return place

    def origin_columns(self, *, transaction: bool = True) -> Row:
        """The columns of ORIGIN_COLUMNS and their values."""
        row: Row = dict(zip(ORIGIN_COLUMNS, self.origin_values, strict=True))
        if not transaction:
            del row["transaction_hash"]
        return row


@lru_cache(maxsize=256)
def _calendar(seconds: int) -> datetime | None:
    if not 0 <= seconds <= _LAST_SECOND:
        return None
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


EXECUTIONS = frozenset({"PassivePerpMatchOrder", "PassivePerpOrderAndPositionUpdate", "PassivePerpExecutionV3"})


class Statements(NamedTuple):
    """`of`: (log index of an execution, account) -> the positions stated for it, in log order. `taken`: the log indices
    of all of these."""

    by_execution: Mapping[tuple[int, int], list[Row]]
    consumed: Collection[int]


_NONE: frozenset[int] = frozenset()
_NOTHING_STATED = Statements({}, _NONE)
_NO_MARKETS: dict[int, list[tuple[int, Row]]] = {}


class Transaction:
    """The events of one transaction, in log order. What needs a look at the whole transaction is answered here; the
    `names` that occur in it tell without a look that most of it is empty.

    `liquidated_by_bid`: accounts whose liquidation bid was executed with success (ranked liquidations). `told_again`:
    log indices of PassivePerpMatchOrder whose order a PassivePerpOrderAndPositionUpdate tells in full. `statements`:
    which PositionDataUpdated belong to which execution.
    """

    __slots__ = ("_markets", "events", "liquidated_by_bid", "names", "statements", "superseded")

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.names = names = {e.name for e in events}
        self.liquidated_by_bid = _liquidated(events) if "AccountExecutedLiquidationBid" in names else _NONE
        self.superseded = _superseded(events) if "PassivePerpOrderAndPositionUpdate" in names else _NONE
        self.statements = _stated(events, self.superseded) if "PositionDataUpdated" in names else _NOTHING_STATED
        self._markets = _markets(events) if "MarketDataUpdated" in names else _NO_MARKETS

    def market_data(self, market: int, log_index: int) -> Row | None:
        """The market as it was at a log: the last MarketDataUpdated before it, else the first after it."""
        told = self._markets.get(market) if self._markets else None
        if not told:
            return None
        before = [data for index, data in told if index < log_index]
        return before[-1] if before else told[0][1]


def _liquidated(events: Iterable[Event]) -> frozenset[int]:
    return frozenset(
        e.args["accountId"] for e in events if e.name == "AccountExecutedLiquidationBid" and e.args["success"]
    )


def _superseded(events: Iterable[Event]) -> frozenset[int]:
    """An update belongs to the nearest earlier, still unpaired match order of equal (market, account, base). Pairing
    by value alone would merge two equal fills into one row."""
    unpaired: dict[tuple[int, int, int], list[int]] = {}
    paired: set[int] = set()
    for e in events:
        if e.name == "PassivePerpMatchOrder":
            order = (e.args["marketId"], e.args["accountId"], e.args["orderBase"])
            unpaired.setdefault(order, []).append(e.log_index)
        elif e.name == "PassivePerpOrderAndPositionUpdate":
            order = (e.args["marketId"], e.args["accountId"], e.args["executedBase"])
            if unpaired.get(order):
                paired.add(unpaired[order].pop())
    return frozenset(paired)


def _stated(events: Iterable[Event], told_again: frozenset[int]) -> Statements:
    """To an execution belong those of its account since the account's last one."""
    pending: dict[tuple[int, int], list[Event]] = {}
    of: dict[tuple[int, int], list[Row]] = {}
    taken: set[int] = set()
    for e in events:
        if e.name == "PositionDataUpdated":
            pending.setdefault((e.args["marketId"], e.args["accountId"]), []).append(e)
        elif pending and e.name in EXECUTIONS and e.log_index not in told_again:
            for account in parties(e):
                stated = pending.pop((e.args["marketId"], account), None)
                if stated:
                    of[e.log_index, account] = [s.args["positionData"] for s in stated]
                    taken.update(s.log_index for s in stated)
    return Statements(of, taken)


def _markets(events: Iterable[Event]) -> dict[int, list[tuple[int, Row]]]:
    found: dict[int, list[tuple[int, Row]]] = {}
    for e in events:
        if e.name == "MarketDataUpdated":
            found.setdefault(e.args["marketData"]["id"], []).append((e.log_index, e.args["marketData"]))
    return found


def parties(execution: Event) -> tuple[int, ...]:
    """The accounts of an execution: the taker or liquidated one first. 0 is no account: auto-deleveraging and the
    closing of a market have nobody on the other side."""
    account, other = execution.args["accountId"], execution.args.get("counterpartyAccountId", execution.pool)
    return (account,) if not other or other == account else (account, other)


# What makes another account than the deployment's pool the other side of a match order.
_NAMES_POOL = frozenset({"MarketDataUpdated", "AccountExecutedLiquidationBid"})


def assign_pool_counterparty(events: Sequence[Event], default: int | None) -> None:
    """Sets `pool` of the match orders among whole transactions: the pool account that MarketDataUpdated of the market
    names in the same transaction, else `default`, the deployment's. Not where a liquidation bid was executed: then the
    other side is a keeper that no log names.
    """
    told = {e.transaction_hash for e in events if e.name in _NAMES_POOL}
    for e in events:
        if e.name == "PassivePerpMatchOrder":
            e.pool = default
    for tx in transactions(e for e in events if e.transaction_hash in told):
        for e in tx.events:
            if e.name != "PassivePerpMatchOrder":
                continue
            data = tx.market_data(e.args["marketId"], e.log_index)
            if e.args["accountId"] in tx.liquidated_by_bid:
                e.pool = None
            elif data is not None:
                # The order book's generation has no pool: its field is named otherwise, and frozen.
                e.pool = data.get("poolAccountId") or None


def transactions(events: Iterable[Event]) -> Iterator[Transaction]:
    """Groups events that are in chain order by transaction. The logs of one transaction are contiguous."""
    group: list[Event] = []
    block, transaction = -1, ""
    for event in events:
        if event.transaction_hash != transaction or event.block_number != block:
            if group:
                yield Transaction(group)
            group = []
            block, transaction = event.block_number, event.transaction_hash
        group.append(event)
    if group:
        yield Transaction(group)


def events_of(registry: Registry, logs: Iterable[Log], times: Mapping[int, int]) -> list[Event]:
    """One event per log of a watched contract, in order; whole transactions; `times` are block timestamps in seconds.

    A log without a decoder, or that does not fit it, is an event without a name and with a reason.
    """
    events: list[Event] = []
    sources = registry.by_address
    hash_, transaction = b"", ""
    for block, index, address, transaction_hash, _, topics, data, *_ in logs:
        source = sources.get(address)
        if source is None:
            continue
        if transaction_hash != hash_:
            hash_, transaction = transaction_hash, "0x" + transaction_hash.hex()
        abi = source.events.get(topics[0]) if topics else None
        if abi is None:
            topic0, reason = ("0x" + topics[0].hex(), "unknown topic") if topics else ("", "no topics")
            name, args, detail = None, {}, reason
        else:
            topic0, name, reason, detail = source.topic_texts[topics[0]], abi.name, "", ""
            try:
                args = abi.decode(topics, data)
            except DecodeMismatchError as mismatch:
                name, args, reason, detail = None, {}, "does not fit", str(mismatch)
        events.append(
            Event(
                block,
                times[block],
                index,
                transaction,
                source.address,
                topic0,
                name,
                args,
                source.erc20,
                reason,
                detail,
            )
        )
    assign_pool_counterparty(events, registry.pool_account)
    return events
