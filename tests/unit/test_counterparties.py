"""Who is on the other side of a match order: the projections, the oracle and `check` read it with code of their own."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from indexer.check.counterparties import counterparty_drifts
from indexer.projections.events import transactions
from indexer.projections.project import state_keys
from tests.support.anvil.emission import Emission
from tests.support.oracle.recompute import recompute
from tests.unit.test_worked_examples import ABIS, DOCUMENT, ROOT, ByOracle, ByProjection, rpc_log

EMITS = Path(__file__).parents[1] / "data" / "reya_cronos_emits.jsonl"
E18 = 10**18
A, B, C, D, POOL = 10, 20, 30, 40, 2
Position = tuple[int, int, int]  # market, account, base
Sides = tuple[Position, Position, Position, Position]


class Script:
    """Logs of one transaction; what is not given is random."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = random.Random(seed)

    def log(self, contract: str, event: str, variant: int = 0, **args: Any) -> Emission:
        return ABIS.make(self.rng, contract, event, {"blockTimestamp": 5, "referrerAccountId": 0} | args, variant)

    def stated(self, market: int, account: int, base: int) -> Emission:
        return self.log("passive_perp", "PositionDataUpdated", marketId=market, accountId=account,
                        positionData=self.position(base))  # fmt: skip

    def position(self, base: int) -> dict[str, Any]:
        trackers = {"fundingValue": 0, "baseMultiplier": E18, "adlUnwindPrice": 0}
        return {"base": base * E18, "realizedPnL": 0, "trackers": trackers}

    def sides(self, *positions: Position) -> list[Emission]:
        return [self.stated(*position) for position in positions]

    def match(self, account: int, base: int, price: int = 1900, market: int = 1, variant: int = 0) -> Emission:
        return self.log(
            "passive_perp", "PassivePerpMatchOrder", variant, marketId=market, accountId=account, orderBase=base * E18,
            executedOrderPrice=price * E18,
        )  # fmt: skip

    def update(self, account: int, other: int, base: int, after: int = 0, other_after: int = 0) -> Emission:
        return self.log(
            "passive_perp", "PassivePerpOrderAndPositionUpdate", marketId=1, accountId=account, executedBase=base * E18,
            counterpartyAccountId=other, isMatchOrder=True, liquidationType=0, positionData=self.position(after),
            counterpartyPositionData=self.position(other_after),
        )  # fmt: skip

    def execution(self, account: int, other: int, base: int) -> Emission:
        before, (after, other_after) = self.position(0), (self.position(n) for n in (base, -base))
        held = {
            "accountPositionBefore": before, "accountPositionAfter": after,
            "counterpartyPositionBefore": before, "counterpartyPositionAfter": other_after,
        }  # fmt: skip
        return self.log(
            "passive_perp", "PassivePerpExecutionV3", marketId=1, accountId=account, counterpartyAccountId=other,
            eventSequenceNumber=1, payload={"executedBase": base * E18, "executionType": 0} | held,
        )  # fmt: skip

    def bid(self, account: int) -> Emission:
        return self.log("core", "AccountExecutedLiquidationBid", accountId=account, success=True)

    def market(self, market: int = 1) -> Emission:
        side = {"fundingValue": 0, "baseMultiplier": E18, "adlUnwindPrice": 0}
        data = {"id": market, "poolAccountId": POOL, "longTrackers": side, "shortTrackers": side}
        return self.log("passive_perp", "MarketDataUpdated", marketData=data)


make = Script()


def trade(account: int, other: int, base: int, held: int = 0, other_held: int = 0, market: int = 1) -> list[Emission]:
    """The four position events of a trade."""
    return make.sides(
        (market, account, held), (market, account, held + base),
        (market, other, other_held), (market, other, other_held - base),
    )  # fmt: skip


def columns(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row.get(name) for name in names) for row in rows]


@pytest.mark.parametrize("engine", [ByProjection, ByOracle])
def test_the_keeper_of_the_document_holds_what_it_took_over(engine: type[ByProjection | ByOracle]) -> None:
    (block,) = re.findall(r"^### A keeper, and a maker\n.*?```\n(.*?)```", DOCUMENT, re.DOTALL | re.MULTILINE)
    logs = []
    for line in block.splitlines():
        account, base, price = (
            int((re.findall(rf"{w} (-?\d+)", line) or [0])[0]) for w in ("account", "base", "price")
        )
        match line.split()[0]:
            case "PositionDataUpdated":
                logs.append(make.stated(1, account, base))
            case "PassivePerpMatchOrder":
                logs.append(make.match(account, base, price))
            case "AccountExecutedLiquidationBid":
                logs.append(make.bid(account))
    assert len(logs) == 6
    made = engine()
    tables = made.feed(logs)
    assert columns(tables["orders"], "account_id", "counterparty_account_id") == [(10, 20)]
    (keeper,) = [row for row in tables["positions"] if row["account_id"] == 20]
    assert (keeper["base"], keeper["average_entry_price"], keeper["session"]) == (5 * E18, 1900 * E18, 1)
    # The event that stated it last is the fourth; the taker's is the second.
    places = {row["account_id"]: row["unique_id"] % 100_000 for row in tables["positions"]}
    assert places == {10: 1, 20: 3}
    sold = made.feed([make.match(20, -5, 2000)])["order_history"]
    assert columns(sold, "price_variation_pnl", "processed") == [(500 * E18, False)]  # no log tells the funding


TOLD: dict[str, tuple[list[Emission], list[int | None]]] = {
    "the pool": ([*trade(A, POOL, 5), make.market(), make.match(A, 5)], [POOL]),
    "a maker where the market names the pool": ([*trade(A, B, 5), make.market(), make.match(A, 5)], [B]),
    "a short, in the older ABI": ([*trade(A, B, -5), make.match(A, -5, variant=1)], [B]),
    "a keeper": ([*trade(A, B, -5, 5), make.match(A, -5), make.bid(A)], [B]),
    "two equal fills of two makers, one after the other":
        ([*trade(A, B, 5), make.match(A, 5), *trade(A, C, 5, 5), make.match(A, 5)], [B, C]),
    "two equal fills of one maker":
        ([*trade(A, B, 5), make.match(A, 5), *trade(A, B, 5, 5, -5), make.match(A, 5)], [B, B]),
    "who was a maker is a taker": ([*trade(A, B, 5), make.match(A, 5), *trade(B, C, 2, -5), make.match(B, 2)], [B, C]),
    "one order inside another": ([*trade(A, B, 5), *trade(C, D, 2), make.match(C, 2), make.match(A, 5)], [D, B]),
    "after a position event of another account": ([make.stated(1, C, 7), *trade(A, B, 5), make.match(A, 5)], [B]),
    "after its own position was brought up to date": ([make.stated(1, A, 0), *trade(A, B, 5), make.match(A, 5)], [B]),
    "with an order told in full before it":
        ([*trade(A, C, 5), make.match(A, 5), make.update(A, C, 5, 5, -5), *trade(A, B, 2, 5), make.match(A, 2)],
         [C, B]),
    "with the order book's execution before it":
        ([make.execution(A, C, 5), *trade(A, B, 3, 5), make.match(A, 3)], [C, B]),
    "told in full": ([*trade(A, B, 5), make.match(A, 5), make.update(A, B, 5, 5, -5)], [B]),
}  # fmt: skip
UNTOLD: dict[str, tuple[list[Emission], list[int | None]]] = {
    "no position events": ([make.match(A, 5)], [None]),
    "only the taker's": ([*make.sides((1, A, 0), (1, A, 5)), make.match(A, 5)], [None]),
    "three": ([*make.sides((1, A, 0), (1, A, 5), (1, B, -5)), make.match(A, 5)], [None]),
    "the four after the order": ([make.match(A, 5), *trade(A, B, 5)], [None]),
    "the taker moves by more": ([*make.sides((1, A, 0), (1, A, 6), (1, B, 0), (1, B, -5)), make.match(A, 5)], [None]),
    "the other moves by less": ([*make.sides((1, A, 0), (1, A, 5), (1, B, 0), (1, B, -4)), make.match(A, 5)], [None]),
    "both move the same way": ([*make.sides((1, A, 0), (1, A, 5), (1, B, 0), (1, B, 5)), make.match(A, 5)], [None]),
    "two others": ([*make.sides((1, A, 0), (1, A, 5), (1, B, 0), (1, C, -5)), make.match(A, 5)], [None]),
    "another taker": ([*trade(C, B, 5), make.match(A, 5)], [None]),
    "the other first": ([*make.sides((1, B, 0), (1, B, -5), (1, A, 0), (1, A, 5)), make.match(A, 5)], [None]),
    "the other in another market":
        ([*make.sides((1, A, 0), (1, A, 5), (2, B, 0), (2, B, -5)), make.match(A, 5)], [None]),
    "all in another market": ([*trade(A, B, 5, market=2), make.match(A, 5)], [None]),
    "something else in between": ([*trade(A, B, 5), make.stated(2, C, 1), make.match(A, 5)], [None]),
    "a trade with oneself": ([*make.sides((1, A, 0), (1, A, 5), (1, A, 5), (1, A, 0)), make.match(A, 5)], [None]),
    "an order of nothing": ([*trade(A, B, 0), make.match(A, 0)], [None]),
    "nobody": ([*trade(A, 0, 5), make.match(A, 5)], [None]),
    "the second of two orders with four events": ([*trade(A, B, 5), make.match(A, 5), make.match(A, 5)], [B, None]),
    "the events of an order that was told in full":
        ([*trade(A, B, 5), make.update(A, B, 5, 5, -5), make.match(A, 5)], [B, None]),
    "the events of the order book's execution":
        ([*trade(A, B, 5), make.execution(A, B, 5), make.match(A, 5)], [B, None]),
    "two equal fills whose events all stand before both":
        ([*trade(A, B, 5), *trade(A, C, 5, 5), make.match(A, 5), make.match(A, 5)], [None, None]),
    "two unequal fills whose events all stand before both":
        ([*trade(A, B, 5), *trade(A, C, 2, 5), make.match(A, 5), make.match(A, 2)], [None, None]),
    "a keeper that nothing names": ([make.match(A, -5), make.bid(A)], [None]),
}  # fmt: skip


def checked(made: ByProjection, orders: list[dict[str, Any]], spoil: int | None = None) -> list[str]:
    """What `check` says of the rows, or of rows that all name another counterparty."""
    rows = {row["unique_id"]: row.get("counterparty_account_id") if spoil is None else spoil for row in orders}
    return [d.detail for tx in transactions(made.events) for d in counterparty_drifts(tx, rows)]


@pytest.mark.parametrize("case", [*TOLD, *UNTOLD])
def test_the_counterparty_is_the_one_that_the_logs_tell_and_none_where_they_do_not(case: str) -> None:
    logs, counterparties = (TOLD | UNTOLD)[case]
    made, oracle = ByProjection(), ByOracle()
    projected, computed = made.feed(logs), oracle.feed(logs)
    for tables in (projected, computed):
        assert columns(tables["orders"], "counterparty_account_id") == [(n,) for n in counterparties]
    assert same(projected, computed)
    assert checked(made, projected["orders"]) == []
    assert len(checked(made, projected["orders"], 77)) == len(counterparties)


def same(projected: dict[str, list[dict[str, Any]]], computed: dict[str, list[dict[str, Any]]]) -> bool:
    """Executions and positions are equal, column by column."""
    for table, key in (("orders", ("id",)), ("order_history", ("id",)), ("positions", ("market_id", "account_id"))):
        ours, theirs = ({tuple(row[k] for k in key): row for row in t.get(table, [])} for t in (projected, computed))
        assert ours.keys() == theirs.keys(), table
        for row, other in ((ours[k], theirs[k]) for k in ours):
            differing = {c: (row.get(c), other.get(c)) for c in row.keys() | other.keys() if row.get(c) != other.get(c)}
            assert not differing, (table, differing)
    return True


@pytest.mark.parametrize("case", TOLD)
def test_the_position_of_whoever_is_named_is_known_from_then_on(case: str) -> None:
    """Nobody else's moves, the market's pool included, and no position event is left to stand for itself."""
    logs, counterparties = TOLD[case]
    tables = ByProjection().feed(logs)
    positions = {row["account_id"]: row for row in tables["positions"]}
    for account in counterparties:
        assert account is not None
        assert positions[account]["base"] == 0 or positions[account]["average_entry_price"] is not None
    assert POOL not in positions or POOL in counterparties


def test_an_order_names_the_state_rows_of_both_sides() -> None:
    """Whoever heals or rolls back finds the counterparty's position by the keys of the order."""
    made = ByProjection()
    made.feed([*trade(A, B, 5), make.market(), make.match(A, 5)])
    assert {key for name, key in state_keys(made.events[-1:]) if name == "positions"} == {(1, A), (1, B)}


@pytest.mark.parametrize("seed", range(8))
def test_whatever_stands_in_a_transaction_projections_oracle_and_check_agree(seed: int) -> None:
    """Few accounts, markets and sizes: position events fit orders by chance, in every order of logs."""
    script, rng, made = Script(seed), random.Random(seed), ByProjection()
    projected: dict[str, list[dict[str, Any]]] = {}
    logs: list[dict[str, Any]] = []
    named = 0
    for block in range(1, 61):
        transaction = _anything(script, rng)
        logs += [rpc_log(e, block, n) for n, e in enumerate(transaction)]
        tables = made.feed(transaction)
        assert checked(made, tables.get("orders", [])) == []
        named += sum(e.sides != () for e in made.events)
        for table, rows in tables.items():
            projected[table] = rows if table == "positions" else [*projected.get(table, []), *rows]
    assert same(projected, recompute(logs, ROOT / "config" / "devnet.toml"))
    assert named > 5


def _anything(script: Script, rng: random.Random) -> list[Emission]:
    logs: list[Emission] = []
    for _ in range(rng.randrange(1, 6)):
        one, two = rng.choice((A, B, C)), rng.choice((A, B, C, POOL))
        base, market = rng.choice((-2, -1, 1, 1, 2)), rng.choice((1, 1, 1, 2))
        sides = trade(one, two, base, rng.randrange(3), rng.randrange(3), market)
        match = script.match(one, base, market=market)
        logs += [
            *rng.choice((sides, sides, sides, sides[:2], sides[2:], sides[:3], [])),
            *rng.choice(([], [], [script.market(market)], [script.stated(market, two, rng.randrange(3))])),
            *rng.choice((
                [match], [match], [match, script.update(one, two, base)], [match, script.bid(one)], [],
                [script.execution(one, two, base)], [script.update(one, two, base)],
            )),
        ]  # fmt: skip
    if rng.random() < 0.3:
        rng.shuffle(logs)
    return logs


@pytest.mark.parametrize("engine", [ByProjection, ByOracle])
@pytest.mark.parametrize("full", [False, True], ids=["match order alone", "told in full"])
def test_a_real_order_on_cronos_names_the_pool_by_its_position_events(
    full: bool, engine: type[ByProjection | ByOracle]
) -> None:
    """Market 1, accounts 7994, 7994, 4, 4: sold one ETH to the pool, at 2,848.6... Nothing else is needed to tell."""
    emits = [json.loads(line) for line in EMITS.read_text().splitlines()]
    order = [e for e in emits if 34 <= e["order"] <= 41]
    if not full:  # neither the market, which names the pool, nor the update, which names everybody
        order = [e for e in order if e["order"] not in (38, 39, 41)]
    logs = [
        Emission(
            str(e["order"]), e["address"].lower(), tuple(bytes.fromhex(t[2:]) for t in e["topics"]),
            bytes.fromhex(e["data"][2:]),
        )
        for e in order
    ]  # fmt: skip
    tables = engine("cronos").feed(logs)
    assert columns(tables["orders"], "account_id", "counterparty_account_id", "executed_base") == [(7994, 4, -E18)]
    price = tables["orders"][0]["price"]
    positions = {row["account_id"]: row for row in tables["positions"]}
    assert (positions[7994]["base"], positions[7994]["average_entry_price"]) == (-E18, price)
    # What the pool held before was bought at prices that these logs do not tell.
    assert (positions[4]["base"], positions[4]["average_entry_price"]) == (0x0E9A7A03141A1FA0, None)
    place = 7 if full else 3
    assert positions[4]["unique_id"] % 100_000 == place
