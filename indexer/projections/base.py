"""What projections work on: decoded events grouped by transaction, and the ledger that collects their rows.

A projection is a pair of pure functions per event: `keys(event)` names the state rows it reads or changes, so that the
store can load them first; `apply(ledger, tx, event)` writes rows into the ledger. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from indexer.projections.fit import Misfit, misfit_of

Row = dict[str, Any]
Key = tuple[Any, ...]
StateKey = tuple[str, Key]

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
        if not 0 <= self.block_time <= _LAST_SECOND:
            return None
        return datetime.fromtimestamp(self.block_time, UTC).replace(tzinfo=None)

    def position(self, *, transaction: bool = True) -> Row:
        """The columns that say where a row comes from."""
        row: Row = {"block_timestamp": self.time, "block_number": self.block_number, "unique_id": self.unique_id}
        if transaction:
            row["transaction_hash"] = self.transaction_hash
        return row


EXECUTIONS = frozenset({"PassivePerpMatchOrder", "PassivePerpOrderAndPositionUpdate", "PassivePerpExecutionV3"})


class Statements(NamedTuple):
    """`of`: (log index of an execution, account) -> the positions stated for it, in log order. `taken`: the log indices
    of all of these."""

    of: dict[tuple[int, int], list[Row]]
    taken: set[int]


@dataclass
class Transaction:
    """The events of one transaction, in log order. What needs a look at the whole transaction is answered here."""

    events: list[Event]

    @cached_property
    def liquidated_by_bid(self) -> frozenset[int]:
        """Accounts whose liquidation bid was executed with success in this transaction (ranked liquidations)."""
        return frozenset(
            e.args["accountId"] for e in self.events if e.name == "AccountExecutedLiquidationBid" and e.args["success"]
        )

    @cached_property
    def told_again(self) -> frozenset[int]:
        """Log indices of PassivePerpMatchOrder whose order a PassivePerpOrderAndPositionUpdate tells in full.

        An update belongs to the nearest earlier, still unpaired match order of equal (market, account, base). Pairing
        by value alone would merge two equal fills into one row.
        """
        unpaired: dict[tuple[int, int, int], list[int]] = {}
        paired: set[int] = set()
        for e in self.events:
            if e.name == "PassivePerpMatchOrder":
                order = (e.args["marketId"], e.args["accountId"], e.args["orderBase"])
                unpaired.setdefault(order, []).append(e.log_index)
            elif e.name == "PassivePerpOrderAndPositionUpdate":
                order = (e.args["marketId"], e.args["accountId"], e.args["executedBase"])
                if unpaired.get(order):
                    paired.add(unpaired[order].pop())
        return frozenset(paired)

    @cached_property
    def statements(self) -> Statements:
        """Which PositionDataUpdated belong to which execution: those of its account since the account's last one."""
        pending: dict[tuple[int, int], list[Event]] = {}
        found = Statements({}, set())
        for e in self.events:
            if e.name == "PositionDataUpdated":
                pending.setdefault((e.args["marketId"], e.args["accountId"]), []).append(e)
            elif pending and e.name in EXECUTIONS and e.log_index not in self.told_again:
                for account in sides(e):
                    stated = pending.pop((e.args["marketId"], account), None)
                    if stated:
                        found.of[e.log_index, account] = [s.args["positionData"] for s in stated]
                        found.taken.update(s.log_index for s in stated)
        return found

    def market_data(self, market: int, log_index: int) -> Row | None:
        """The market as it was at a log: the last MarketDataUpdated before it, else the first after it."""
        told = self._markets.get(market)
        if not told:
            return None
        before = [data for index, data in told if index < log_index]
        return before[-1] if before else told[0][1]

    @cached_property
    def _markets(self) -> dict[int, list[tuple[int, Row]]]:
        found: dict[int, list[tuple[int, Row]]] = {}
        for e in self.events:
            if e.name == "MarketDataUpdated":
                found.setdefault(e.args["marketData"]["id"], []).append((e.log_index, e.args["marketData"]))
        return found


def sides(execution: Event) -> tuple[int, ...]:
    """The accounts of an execution: the taker or liquidated one first. 0 is no account: auto-deleveraging and the
    closing of a market have nobody on the other side."""
    account, other = execution.args["accountId"], execution.args.get("counterpartyAccountId", execution.pool)
    return (account,) if not other or other == account else (account, other)


def name_pools(events: Iterable[Event], default: int | None) -> None:
    """Sets `pool` of the match orders among whole transactions: the pool account that MarketDataUpdated of the market
    names in the same transaction, else `default`, the deployment's. Not where a liquidation bid was executed: then the
    other side is a keeper that no log names.
    """
    for tx in transactions(events):
        for e in tx.events:
            if e.name == "PassivePerpMatchOrder" and e.args["accountId"] not in tx.liquidated_by_bid:
                data = tx.market_data(e.args["marketId"], e.log_index)
                # The order book's generation has no pool: its field is named otherwise, and frozen.
                e.pool = (data.get("poolAccountId") or None) if data is not None else default


@dataclass(frozen=True, slots=True)
class Incident:
    """A named condition that a person must see; work goes on. One open incident per (kind, subject)."""

    kind: str
    subject: str
    detail: str
    block_number: int


@dataclass(slots=True)
class Ledger:
    """Collects what one step changes. `columns`: table -> column -> kind (numeric, text, ...), for the fit check.

    `state` holds the state rows loaded for this step (None: no such row). When `capture` says so for a block, the value
    a row had before that block's first change is kept as a before-image. `tokens`: address -> (name, symbol); `rusd`:
    the quote token's address. `accounting`: addresses of the contracts whose events move positions.
    """

    columns: Mapping[str, Mapping[str, str]]
    state: dict[StateKey, Row | None]
    capture: Callable[[int], bool]
    tokens: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    rusd: str | None = None
    accounting: frozenset[str] = frozenset()
    appended: dict[str, list[Row]] = field(default_factory=dict)
    changed: set[StateKey] = field(default_factory=set)
    before: dict[tuple[int, StateKey], Row | None] = field(default_factory=dict)
    incidents: list[Incident] = field(default_factory=list)
    _misfits: dict[str, Misfit] = field(default_factory=dict)
    _tables: dict[str, dict[Key, Row | None]] = field(default_factory=dict)

    def get(self, table: str, key: Key) -> Row | None:
        """A state row. KeyError when the projection's `keys` did not name it: guessing would drop what is stored."""
        return self.state[table, key]

    def table(self, table: str) -> Iterable[Row | None]:
        """All rows of a table that is read whole (`projections.WHOLE_TABLES`)."""
        if table not in self._tables:
            self._tables[table] = {key: row for (name, key), row in self.state.items() if name == table}
        return self._tables[table].values()

    def append(self, table: str, row: Row, event: Event) -> None:
        """Adds a row that nothing changes later."""
        if self._fits(table, row, event):
            self.appended.setdefault(table, []).append(row)

    def put(self, table: str, key: Key, row: Row, event: Event) -> None:
        """Sets a state row. A value that fits no column leaves the previous row and opens an incident."""
        if not self._fits(table, row, event):
            return
        previous = self.state[table, key]
        if self.capture(event.block_number):
            self.before.setdefault((event.block_number, (table, key)), previous)
        self.state[table, key] = row
        if table in self._tables:
            self._tables[table][key] = row
        self.changed.add((table, key))

    def incident(self, kind: str, subject: str, detail: str, event: Event) -> None:
        self.incidents.append(Incident(kind, subject, detail, event.block_number))

    def _fits(self, table: str, row: Row, event: Event) -> bool:
        misfit = self._misfits.get(table)
        if misfit is None:
            misfit = self._misfits[table] = misfit_of(self.columns[table])
        column = misfit(row)
        if column is None:
            return True
        self.incident(
            "value_misfit",
            f"{table}.{column} {event.id}",
            f"{repr(row.get(column))[:120]} does not fit {self.columns[table][column]}; the row was not written",
            event,
        )
        return False


def transactions(events: Iterable[Event]) -> Iterable[Transaction]:
    """Groups events that are in chain order by transaction. The logs of one transaction are contiguous."""
    group: list[Event] = []
    for event in events:
        if group and (event.block_number, event.transaction_hash) != (group[0].block_number, group[0].transaction_hash):
            yield Transaction(group)
            group = []
        group.append(event)
    if group:
        yield Transaction(group)
