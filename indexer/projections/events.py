"""Decoded events, grouped by transaction: the input of every projection. Pure.

A projection is a pair of pure functions per event: `keys(event)` names the state rows it reads or changes, so that they
can be loaded first; `apply(write_set, tx, event)` writes rows into the `WriteSet`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from indexer.chain.types import LOGS_PER_BLOCK, Log
from indexer.decode.registry import Registry
from indexer.errors import DecodeMismatchError

Row = dict[str, Any]
Key = tuple[Any, ...]
StateKey = tuple[str, Key]
Values = tuple[Any, ...]
# The columns that say which log a row is from.
ORIGIN_COLUMNS = ("transaction_hash", "block_timestamp", "block_number", "unique_id")
_LAST_SECOND = 253_402_300_799  # 9999-12-31: Python has no datetime beyond it.


@dataclass(slots=True)
class Event:
    """One decoded log.

    `name` is None when the log has no decoder or does not fit its decoder; `reason` then says which. `block_time` is
    the block's timestamp (s), `time` the event's own `blockTimestamp` (s) where it carries one. `counterparty` is the
    account on the other side of a match order, and `sides` the four position events that state both sides of it (taker
    before and after, counterparty before and after); both are set by `assign_counterparties`.
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
    counterparty: int | None = None
    sides: tuple[Event, ...] = ()
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
        """The block's time in UTC, for timestamp(3) columns. None when the calendar does not reach it."""
        return _calendar(self.block_time)

    @property
    def origin_values(self) -> Values:
        """The values of ORIGIN_COLUMNS, shared by all rows of the event and by the positions that it moves."""
        values = self._origin
        if values is None:
            values = self._origin = self.transaction_hash, self.time, self.block_number, self.unique_id
        return values

    def origin_columns(self, *, transaction: bool = True) -> Row:
        """Return ORIGIN_COLUMNS with their values, without transaction_hash unless `transaction`."""
        row: Row = dict(zip(ORIGIN_COLUMNS, self.origin_values, strict=True))
        if not transaction:
            del row["transaction_hash"]
        return row


@lru_cache(maxsize=256)
def _calendar(seconds: int) -> datetime | None:
    if not 0 <= seconds <= _LAST_SECOND:
        return None
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


MATCH_ORDER, POSITION = "PassivePerpMatchOrder", "PositionDataUpdated"
EXECUTIONS = frozenset({MATCH_ORDER, "PassivePerpOrderAndPositionUpdate", "PassivePerpExecutionV3"})


class Statements(NamedTuple):
    """The positions that the chain states for the executions of a transaction.

    `by_execution`: (log index of an execution, account) -> the PositionDataUpdated events that state the account's
    position for it, in log order. `consumed`: the log indices of all these events.
    """

    by_execution: Mapping[tuple[int, int], Sequence[Event]]
    consumed: Collection[int]


_NONE: frozenset[int] = frozenset()
_NOTHING_STATED = Statements({}, _NONE)
_Markets = Mapping[int, list[tuple[int, Row]]]
_NO_MARKETS: _Markets = {}


class Transaction:
    """The events of one transaction, in log order, and the answers that need a look at all of them.

    `names`: the event names that occur; without a scan they show that most answers are empty. `liquidated_by_bid`:
    accounts whose liquidation bid was executed successfully (ranked liquidations). `superseded`: log indices of the
    PassivePerpMatchOrder events whose order a PassivePerpOrderAndPositionUpdate describes in full. `statements`: which
    PositionDataUpdated events belong to which execution.
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
        """Return the market as it was at a log: the last MarketDataUpdated before it, else the first after it."""
        return _market_at(self._markets, market, log_index) if self._markets else None


def _liquidated(events: Iterable[Event]) -> frozenset[int]:
    return frozenset(
        e.args["accountId"] for e in events if e.name == "AccountExecutedLiquidationBid" and e.args["success"]
    )


def _superseded(events: Iterable[Event]) -> frozenset[int]:
    """Return the log indices of the match orders that a later update describes in full.

    An update belongs to the nearest earlier, still unpaired match order of equal (market, account, base). Pairing by
    value alone would merge two equal fills into one row.
    """
    unpaired: dict[tuple[int, int, int], list[int]] = {}
    paired: set[int] = set()
    for e in events:
        if e.name == MATCH_ORDER:
            order = (e.args["marketId"], e.args["accountId"], e.args["orderBase"])
            unpaired.setdefault(order, []).append(e.log_index)
        elif e.name == "PassivePerpOrderAndPositionUpdate":
            order = (e.args["marketId"], e.args["accountId"], e.args["executedBase"])
            if unpaired.get(order):
                paired.add(unpaired[order].pop())
    return frozenset(paired)


def _stated(events: Iterable[Event], superseded: frozenset[int]) -> Statements:
    """Assign to each execution the statements that belong to it.

    A match order whose `sides` are known has exactly these. Any other execution has the statements about its accounts
    since the account's previous execution.
    """
    pending: dict[tuple[int, int], list[Event]] = {}
    by_execution: dict[tuple[int, int], Sequence[Event]] = {}
    consumed: set[int] = set()
    for e in events:
        if e.name == POSITION:
            pending.setdefault((e.args["marketId"], e.args["accountId"]), []).append(e)
        elif pending and e.name in EXECUTIONS and e.log_index not in superseded:
            for n, account in enumerate(parties(e)):
                stated: Sequence[Event] | None = pending.pop((e.args["marketId"], account), None)
                if stated:
                    stated = e.sides[2 * n : 2 * n + 2] or stated
                    by_execution[e.log_index, account] = stated
                    consumed.update([s.log_index for s in stated])
    return Statements(by_execution, consumed)


def _markets(events: Iterable[Event]) -> dict[int, list[tuple[int, Row]]]:
    updates: dict[int, list[tuple[int, Row]]] = {}
    for e in events:
        if e.name == "MarketDataUpdated":
            updates.setdefault(e.args["marketData"]["id"], []).append((e.log_index, e.args["marketData"]))
    return updates


def _market_at(markets: _Markets, market: int, log_index: int) -> Row | None:
    updates = markets.get(market)
    if not updates:
        return None
    before = [data for index, data in updates if index < log_index]
    return before[-1] if before else updates[0][1]


def parties(execution: Event) -> tuple[int, ...]:
    """Return the accounts of an execution, the taker or liquidated one first.

    0 is no account: auto-deleveraging and the closing of a market have nobody on the other side.
    """
    account, other = execution.args["accountId"], execution.args.get("counterpartyAccountId", execution.counterparty)
    return (account,) if not other or other == account else (account, other)


# Events that make the other side of a match order another account than the deployment's pool.
_NAMES_COUNTERPARTY = frozenset({POSITION, "MarketDataUpdated", "AccountExecutedLiquidationBid"})


def assign_counterparties(events: Sequence[Event], pool: int | None) -> None:
    """Set `counterparty` and `sides` of the match orders in `events`, which are whole transactions.

    The counterparty is the account that the transaction's position events name (`_stated_sides`). Where they name none,
    it is the pool account that a MarketDataUpdated of the market names in the same transaction, else `pool`, the
    deployment's; and None where a liquidation bid was executed, because the other side is then a keeper.
    """
    orders = [e for e in events if e.name == MATCH_ORDER]
    for e in orders:
        e.counterparty = pool
    candidates = {e.transaction_hash for e in orders}
    candidates &= {e.transaction_hash for e in events if e.name in _NAMES_COUNTERPARTY}
    for group in _by_transaction(e for e in events if e.transaction_hash in candidates) if candidates else ():
        _assign(group)


def _assign(events: list[Event]) -> None:
    """Set `counterparty` and `sides` of the match orders of one transaction."""
    liquidated, markets = _liquidated(events), _markets(events)
    untaken: list[Event] = []
    for e in events:
        if e.name == POSITION:
            untaken.append(e)
        elif e.name in EXECUTIONS:
            market = e.args["marketId"]
            if e.name == MATCH_ORDER:
                e.sides = _stated_sides(e, untaken)
                if e.sides:
                    e.counterparty = e.sides[2].args["accountId"]
                elif e.args["accountId"] in liquidated:
                    e.counterparty = None
                elif (data := _market_at(markets, market, e.log_index)) is not None:
                    # The order-book generation has no pool: its field has another name and is frozen.
                    e.counterparty = data.get("poolAccountId") or None
            if untaken:
                accounts = parties(e)
                untaken = [s for s in untaken if s.args["marketId"] != market or s.args["accountId"] not in accounts]


def _stated_sides(order: Event, untaken: list[Event]) -> tuple[Event, ...]:
    """Return the four position events that state both sides of a match order; empty where none surely do.

    They are the last four before it that no earlier execution took (`untaken`). If four others of these fit as well,
    nothing tells which of them are the order's: equal fills must not get each other's counterparty.
    """
    first = len(untaken) - 4
    if first < 0 or not _fits(order, untaken[first:]) or any(_fits(order, untaken[n : n + 4]) for n in range(first)):
        return ()
    return tuple(untaken[first:])


def _fits(order: Event, sides: Sequence[Event]) -> bool:
    """Return whether the position events state the taker before and after the order, then one other account.

    An order of nothing, or of an account with itself, is not recognizable: any two statements of a position fit it.
    """
    market, account, base = order.args["marketId"], order.args["accountId"], order.args["orderBase"]
    before, after, other_before, other_after = (e.args for e in sides)
    other = other_before["accountId"]
    return bool(
        before["accountId"] == after["accountId"] == account
        and other_after["accountId"] == other != account
        and other
        and base
        and before["marketId"] == after["marketId"] == market
        and other_before["marketId"] == other_after["marketId"] == market
        and after["positionData"]["base"] - before["positionData"]["base"] == base
        and other_after["positionData"]["base"] - other_before["positionData"]["base"] == -base
    )


def transactions(events: Iterable[Event]) -> Iterator[Transaction]:
    """Group events in chain order by transaction. The logs of one transaction are contiguous."""
    return map(Transaction, _by_transaction(events))


def _by_transaction(events: Iterable[Event]) -> Iterator[list[Event]]:
    group: list[Event] = []
    block, transaction = -1, ""
    for event in events:
        if event.transaction_hash != transaction or event.block_number != block:
            if group:
                yield group
            group = []
            block, transaction = event.block_number, event.transaction_hash
        group.append(event)
    if group:
        yield group


def events_of(registry: Registry, logs: Iterable[Log], times: Mapping[int, int]) -> list[Event]:
    """Return one event per log of a watched contract, in order.

    `logs` are whole transactions; `times`: block number -> timestamp (s). A log that has no decoder, or does not fit
    it, becomes an event without a name and with a reason.
    """
    events: list[Event] = []
    contracts = registry.by_address
    hash_, transaction = b"", ""
    for block, index, address, transaction_hash, _, topics, data, *_ in logs:
        contract = contracts.get(address)
        if contract is None:
            continue
        if transaction_hash != hash_:
            hash_, transaction = transaction_hash, "0x" + transaction_hash.hex()
        abi = contract.events.get(topics[0]) if topics else None
        if abi is None:
            topic0, reason = ("0x" + topics[0].hex(), "unknown topic") if topics else ("", "no topics")
            name, args, detail = None, {}, reason
        else:
            topic0, name, reason, detail = contract.topic_texts[topics[0]], abi.name, "", ""
            try:
                args = abi.decode(topics, data)
            except DecodeMismatchError as mismatch:
                name, args, reason, detail = None, {}, "does not fit", str(mismatch)
        events.append(Event(
            block, times[block], index, transaction, contract.address, topic0, name, args, contract.erc20, reason,
            detail,
        ))  # fmt: skip
    assign_counterparties(events, registry.pool_account)
    return events
