"""`check` follows positions: clean on a history that is whole, and whatever is done to a row or kept back is found."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable

import pytest

from indexer.chain.types import Log
from indexer.check import recompute
from indexer.check.position_replay import Drift, Reconciliation
from indexer.db.connection import connection
from indexer.projections.events import StateKey, events_of, transactions
from indexer.projections.project import project, split_row, state_keys
from indexer.projections.write_set import StateRow
from indexer.projector.writer import Writer
from indexer.store.index_state import load_index_state
from tests.accounting.desk import E18, Desk, Fill, Flow
from tests.accounting.histories import STEPS as HAPPENINGS
from tests.accounting.machine import ADDRESSES, DEVNET, History
from tests.chaos.databases import Databases
from tests.support.anvil.emission import Abis

STEPS = [
    ("amm_order", 0, 0), ("amm_order", 0, 2), ("amm_order", 0, 3), ("book_order", 1, 0), ("equal_fills", 2, 1),
    ("price_and_funding", 0, 15), ("stated_match_order", 1, 3), ("deleveraging", 2, 4), ("amm_order", 2, 3),
    ("book_order", 3, 6), ("several_fills", 4, 0), ("liquidation", 2, 3), ("book_order", 0, 8),
    ("maker_order", 1, 4), ("bare_liquidation", 3, 1), ("bare_match_order", 0, 3),
]  # fmt: skip


@pytest.fixture
async def history(databases: Databases) -> AsyncIterator[History]:
    made = History(await databases.make(), 11)
    await made.open()
    try:
        for step in STEPS:
            await made.do(*step)
        await made.do("compare", 0, 0)
        await made.process.stop()
        yield made
    finally:
        await made.close()
        await databases.drop(made.url)


async def followed(url: str) -> tuple[Reconciliation, set[str]]:
    """What was counted, and the checks that found something."""
    async with connection(url) as conn:
        state = await load_index_state(conn, sorted(ADDRESSES))
        told, drifts = await recompute.reconcile_positions(conn, Writer(DEVNET), state, lambda block: None)
    return told, {drift.check for drift in drifts}


POSITIONS, ROWS = "positions are their executions", "every execution has its row"
SIDES = "counterparties are those that the logs state"
SPOILT = {
    "UPDATE order_history SET r_pnl = r_pnl + 1000000, price_variation_pnl = price_variation_pnl + 1000000":
        {"realized PnL of closed sessions"},
    "UPDATE positions SET base = base + 1000000 WHERE base > 0": {POSITIONS, "one-sided open interest"},
    "UPDATE positions SET realized_pnl = realized_pnl + 1 WHERE account_id = 2": {POSITIONS},
    "DELETE FROM positions WHERE account_id = 2 AND market_id = 1": {POSITIONS, "one-sided open interest"},
    "UPDATE orders SET counterparty_account_id = counterparty_account_id + 1": {SIDES},
    "UPDATE orders SET counterparty_account_id = NULL WHERE counterparty_account_id = 2": {SIDES},
    # Of a bare match order that the pool is taken to be on the other side of: no log says so.
    "UPDATE orders SET counterparty_account_id = 2 WHERE counterparty_account_id IS NULL": {SIDES},
    "INSERT INTO positions (market_id, account_id, base) VALUES (9, 9, 0)": {POSITIONS},
    "DELETE FROM order_history WHERE unique_id = (SELECT max(unique_id) FROM order_history)": {ROWS},
    # The other half of a pair has no row of its own: that of another log is put there.
    "UPDATE order_history SET unique_id = unique_id - 1 WHERE unique_id = (SELECT min(unique_id) FROM order_history)":
        {ROWS},
}  # fmt: skip


async def test_whatever_is_done_to_a_row_is_found(history: History) -> None:
    told, found = await followed(history.url)
    assert found == set() and told.contradictions == []
    counted = told.counted
    assert counted.compared > 40 and counted.sessions >= 3 and counted.markets == 2
    async with connection(history.url) as conn:
        for statement, checks in SPOILT.items():
            # Undone afterwards: each is found alone.
            await conn.execute("CREATE SCHEMA kept; CREATE TABLE kept.p AS TABLE positions")
            await conn.execute("CREATE TABLE kept.h AS TABLE order_history; CREATE TABLE kept.o AS TABLE orders")
            await conn.execute(statement)
            _, found = await followed(history.url)
            assert found == checks, statement
            await conn.execute(
                "TRUNCATE positions, order_history, orders; INSERT INTO positions TABLE kept.p;"
                " INSERT INTO order_history TABLE kept.h; INSERT INTO orders TABLE kept.o; DROP SCHEMA kept CASCADE"
            )
    assert (await followed(history.url))[1] == set()


async def test_an_event_that_is_missing_is_a_contradiction_of_the_chain_and_not_of_the_rows(history: History) -> None:
    history.desk.fill(1, history.desk.accounts[0], history.desk.accounts[1], 10**18)  # happens, and no log tells it
    for step in (("book_order", 0, 0), ("book_order", 2, 0)):
        await history.do(*step)
    await history._follow()
    told, found = await followed(history.url)
    assert found == set()
    assert told.counted.contradictions > 0 and all("base" in c.detail for c in told.contradictions[:1])


def followed_in_memory(flows: Iterable[Flow]) -> tuple[Reconciliation, list[Drift]]:
    """Transactions, one in each block, projected and followed without a database; with what was found."""
    writer = Writer(DEVNET)
    logs = [
        Log(block, n, bytes.fromhex(e.address[2:]), block.to_bytes(32), 0, e.topics, e.data, b"\x01" * 32)
        for block, flow in enumerate(flows, 1)
        for n, e in enumerate(flow)
    ]
    events = events_of(writer.registry, logs, {log.block_number: log.block_number for log in logs})
    state: dict[StateKey, StateRow] = dict.fromkeys(state_keys(events))
    ledger = writer.new_write_set(state, logs[-1].block_number)
    project(ledger, events)
    told, pnl = Reconciliation(), {row["unique_id"]: row["r_pnl"] for row in ledger.rows("order_history")}
    for tx in transactions(events):
        told.add(tx, pnl)
    told.rows_without_execution(pnl)
    rows = [split_row(name, kept)[0] or {} for (name, _), kept in state.items() if name == "positions" and kept]
    return told, [*told.drifts, *told.compare(rows), *told.open_interest(rows), *told.contradictions]


@pytest.mark.parametrize("seed", range(2))
def test_a_long_history_adds_up(seed: int) -> None:
    """No database: thousands of executions projected and followed. What the desk's own books realised in each session
    is what the rows say, however often the position was funded and deleveraged around it."""
    rng = random.Random(seed)
    desk, names = Desk(Abis("devnet"), rng, markets=3, accounts=12), sorted(HAPPENINGS)
    flows = [HAPPENINGS[rng.choice(names)](desk, rng.randrange(500), rng.randrange(500)) for _ in range(1, 500)]
    told, found = followed_in_memory(flows)
    assert found == []
    assert told.counted.compared > 1_000 and told.counted.sessions > 30 and told.counted.markets == 3


def test_a_unit_that_the_chain_rounded_in_an_execution_that_states_nothing_is_no_drift() -> None:
    desk = Desk(Abis("devnet"), random.Random(1), markets=1, accounts=40)
    flows: list[Flow] = []

    def fill(account: int, size: int) -> Fill:
        desk.move(1, desk.rng.randrange(-3, 4), desk.rng.randrange(E18))
        return desk.fill(1, account, desk.pool, size)

    for account in desk.accounts:
        size = desk.rng.randrange(1, E18)
        opened = fill(account, size)
        flows.append([*desk.around(opened), desk.match(opened), desk.update(opened)])
        reduced = fill(account, -size // 3)
        flows.append([desk.match(reduced), desk.market_data(1)])
        closed = fill(account, -reduced.after.base)
        flows.append([desk.market_data(1), desk.match(closed), desk.update(closed)])
    told, found = followed_in_memory(flows)
    assert found == [] and told.counted.sessions >= len(desk.accounts)
