"""Nothing that logs tell of the other side is NULL, and no PnL that follows from it: counted over long histories."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from indexer.chain.types import Log
from indexer.check.counterparties import counterparty_drifts
from indexer.db.connection import connection
from indexer.projections.events import StateKey, events_of, transactions
from indexer.projections.project import project, state_keys
from indexer.projections.write_set import StateRow
from indexer.projector.writer import Writer
from tests.accounting.desk import E18, Desk, Fill, Flow
from tests.accounting.histories import STEPS
from tests.accounting.machine import DEVNET, History
from tests.chaos.databases import Databases
from tests.support.anvil.emission import Abis, Emission

PLACE = tuple[int, int]  # block, log index
# In which generations of events which accounts are on the other side of some order.
SIDES = {
    ("PassivePerpMatchOrder", "pool"), ("PassivePerpMatchOrder", "trader"), ("PassivePerpMatchOrder", "backstop"),
    ("PassivePerpOrderAndPositionUpdate", "pool"), ("PassivePerpOrderAndPositionUpdate", "trader"),
    ("PassivePerpOrderAndPositionUpdate", "backstop"), ("PassivePerpExecutionV3", "trader"),
    ("PassivePerpExecutionV3", "backstop"),
}  # fmt: skip


class Witness(Desk):
    """A desk that remembers which fill each order tells, and of which fills both sides were stated."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(Abis("devnet"), rng, markets=3, accounts=12)
        self.orders: list[tuple[Emission, Fill, bool]] = []
        self.told: list[Fill] = []

    def stated_sides(self, fill: Fill) -> Flow:
        self.told.append(fill)
        return super().stated_sides(fill)

    def match(self, fill: Fill, variant: int = 0) -> Emission:
        return self._remember(super().match(fill, variant), fill, any(fill is told for told in self.told))

    def update(self, fill: Fill, kind: int | None = None) -> Emission:
        return self._remember(super().update(fill, kind), fill, told=True)

    def execution(self, fill: Fill, kind: int, variant: int) -> Emission:
        return self._remember(super().execution(fill, kind, variant), fill, told=True)

    def whose(self, account: int) -> str:
        return {self.pool: "pool", self.backstop: "backstop", 0: "nobody"}.get(account, "trader")

    def _remember(self, emission: Emission, fill: Fill, told: bool) -> Emission:
        self.orders.append((emission, fill, told))
        return emission

    def play(self, blocks: int) -> tuple[list[Log], dict[PLACE, tuple[Fill, bool]]]:
        """The logs of a history, a transaction in each block, and what each order in it tells."""
        names, logs, orders = sorted(STEPS), list[Log](), dict[PLACE, tuple[Fill, bool]]()
        for block in range(1, blocks + 1):
            self.orders.clear()
            flow = STEPS[self.rng.choice(names)](self, self.rng.randrange(500), self.rng.randrange(500))
            for n, e in enumerate(flow):
                address = bytes.fromhex(e.address[2:])
                logs.append(Log(block, n, address, block.to_bytes(32), 0, e.topics, e.data, b"\x01" * 32))
                for order, fill, told in self.orders:
                    if order is e:
                        orders[block, n] = fill, told
        return logs, orders


def reduces(fill: Fill) -> bool:
    return fill.size * fill.before.base < 0


@pytest.mark.parametrize("seed", range(3))
def test_no_counterparty_and_no_pnl_is_null_where_the_logs_tell(seed: int) -> None:
    """Before position events were read for the other side, 478 of these 1,796 orders had no counterparty and 169 no PnL
    although the logs tell both."""
    writer, desk = Writer(DEVNET), Witness(random.Random(seed))
    logs, told = desk.play(500)
    events = events_of(writer.registry, logs, {block: block for block in range(501)})
    state: dict[StateKey, StateRow] = dict.fromkeys(state_keys(events))
    ledger = writer.new_write_set(state, 501)
    project(ledger, events)
    counted, orders, named_by = Counter[str](), ledger.rows("orders"), set[tuple[str | None, str]]()
    names = {event.unique_id: event.name for event in events}
    history: dict[int, dict[str, Any]] = {row["unique_id"]: row for row in ledger.rows("order_history")}
    for row in orders:
        fill, is_told = told[divmod(row["unique_id"], 100_000)]
        named = row.get("counterparty_account_id")
        assert named is None or (is_told and named == fill.other), row["id"]
        if is_told:
            named_by.add((names[row["unique_id"]], desk.whose(fill.other)))
        counted["orders"] += 1
        counted["not told"] += not is_told
        counted["no counterparty"] += is_told and named is None
        counted["no PnL"] += reduces(fill) and history[row["unique_id"]]["r_pnl"] is None
    by_id = {row["unique_id"]: row.get("counterparty_account_id") for row in orders}
    assert not [drift for tx in transactions(events) for drift in counterparty_drifts(tx, by_id)]
    assert (counted["no counterparty"], counted["no PnL"]) == (0, 0), counted
    assert named_by >= SIDES, SIDES - named_by
    assert counted["orders"] > 500 and counted["not told"] < counted["orders"] // 8


async def test_a_position_event_that_arrives_late_names_the_keeper_and_mends_what_follows(databases: Databases) -> None:
    """The heal replays the keeper's position too, which no key of the order named before; a reorg takes all back."""
    history = History(await databases.make(), 5)
    await history.open()
    try:
        desk, (owner, keeper, taker, *_) = history.desk, history.desk.accounts

        def order(account: int, other: int, size: int, *more: Emission) -> None:
            fill = desk.fill(1, account, other, size)
            history._add([*desk.around(fill), desk.match(fill), *more])
            history._seal()

        order(owner, desk.pool, 5 * E18)
        history._finalize(0)
        await history._follow()
        await history.process.stop()
        before = history.tip.number
        order(owner, keeper, -5 * E18, desk.bid(owner))
        order(keeper, desk.pool, -5 * E18)
        (late,) = [g for g in history.tree.logs(history.tip.hash, before + 1)
                   if g["blockNumber"] == hex(before + 1) and g["logIndex"] == "0x3"]  # fmt: skip
        history.node.omit.add((bytes.fromhex(late["blockHash"][2:]), 3))
        history._finalize(0)
        await history._follow()
        assert await _last_two(history.url) == [(owner, None, True), (keeper, desk.pool, False)]
        history.node.omit.clear()
        await history.process.stop()
        await history._heal(before)
        history.healed += 1
        assert await _last_two(history.url) == [(owner, keeper, True), (keeper, desk.pool, True)]
        await history.do("compare", 0, 0)
        order(taker, keeper, 2 * E18)
        await history.do("compare", 0, 0)
        await history.do("reorg", 0, 1)
        await history.do("compare", 0, 0)
        assert history.reorgs == 1
    finally:
        await history.close()
        await databases.drop(history.url)


async def _last_two(url: str) -> list[tuple[int, int | None, bool]]:
    """Account, counterparty, and whether there is a PnL, of the last two orders."""
    async with connection(url) as conn:
        rows = await conn.fetch(
            "SELECT account_id, counterparty_account_id, r_pnl IS NOT NULL FROM orders JOIN order_history USING"
            " (unique_id, account_id) ORDER BY unique_id DESC LIMIT 2"
        )
    return [tuple(row) for row in rows][::-1]
