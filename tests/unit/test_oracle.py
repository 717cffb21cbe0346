"""The oracle is independent of the program, and would see a wrong row."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.anvil.emission import Abis, Emission
from tests.support.anvil.flows import World
from tests.support.oracle.base import Row
from tests.support.oracle.compare import differences
from tests.support.oracle.recompute import recompute

ORACLE = Path(__file__).parents[1] / "support" / "oracle"
CONFIG = Path(__file__).parents[2] / "config" / "reya.toml"
MARKET, ACCOUNT, BASE, POOL = 1, 100, 5, 2


@pytest.fixture
def world() -> World:
    made = World(Abis("reya"), 1)
    made.accounts.append(ACCOUNT)
    made.positions[MARKET, ACCOUNT] = BASE
    return made


def tables(*transactions: Sequence[Emission]) -> dict[str, list[Row]]:
    """The recompute of these transactions, one block each, from block 1 on."""
    logs: list[dict[str, Any]] = [
        {
            "address": e.address,
            "topics": ["0x" + t.hex() for t in e.topics],
            "data": "0x" + e.data.hex(),
            "blockNumber": hex(block),
            "blockHash": f"0x{block:064x}",
            "blockTimestamp": hex(1000 + block),
            "transactionHash": f"0x{block:x}",
            "transactionIndex": "0x0",
            "logIndex": hex(index),
        }
        for block, transaction in enumerate(transactions, 1)
        for index, e in enumerate(transaction)
    ]
    return recompute(logs, CONFIG)


def test_the_oracle_imports_nothing_of_the_program() -> None:
    for path in ORACLE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("indexer", "importlib") for name in names), path
            # Other test equipment may use the program: through it the oracle would, too.
            assert all(name.startswith("tests.support.oracle.") for name in names if name.startswith("tests")), path


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([{"id": "a", "amount": 1}, {"id": "b", "amount": 2}], []),
        ([{"id": "a", "amount": 1}], ["token_transfer ('b',): missing"]),
        ([{"id": "a", "amount": 1}] * 2 + [{"id": "b", "amount": 2}], ["token_transfer ('a',): there 2 times"]),
        ([{"id": "a", "amount": 3}, {"id": "b", "amount": 2}], ["token_transfer ('a',) amount: 3, should be 1"]),
        (
            [{"id": i, "amount": n, "memo": "x"} for i, n in (("a", 1), ("b", 2))],
            [f"token_transfer ('{i}',) memo: 'x', should be None" for i in "ab"],
        ),
        (
            [{"id": i, "amount": n} for i, n in (("a", 1), ("b", 2), ("c", 3))],
            ["token_transfer ('c',): not on the chain"],
        ),
    ],
)
def test_every_kind_of_difference_is_found(rows: list[dict[str, object]], found: list[str]) -> None:
    expected = {"token_transfer": [{"id": "a", "amount": 1}, {"id": "b", "amount": 2}]}
    assert differences(expected, {"token_transfer": rows}) == found


def test_an_update_tells_the_nearest_earlier_order_once(world: World) -> None:
    match, other = world._match(MARKET, ACCOUNT, BASE), world._match(MARKET, ACCOUNT, -BASE)
    update = world._update(MARKET, ACCOUNT, BASE, order=True, kind=0, counterparty=POOL)
    rows = tables([match, match, other, update, match], [update], [match, match, match, update, update])
    assert [r["id"] for r in rows["orders"]] == ["0x1-0", "0x1-2", "0x1-3", "0x1-4", "0x2-0", "0x3-0", "0x3-3", "0x3-4"]


def test_kinds_of_liquidation(world: World) -> None:
    def update(kind: int, other: int) -> Emission:
        return world._update(MARKET, ACCOUNT, BASE, order=False, kind=kind, counterparty=other)

    match, bid = world._match(MARKET, ACCOUNT, BASE), world._bid(ACCOUNT, success=True)
    backstop = world.log("core", "BackstopLPConfigurationUpdated", collateralPoolId=7, newConfig={"accountId": 3})
    rows = tables([update(0, 3), backstop, update(0, 3), update(3, 3)], [match, bid], [update(0, 3), bid], [match])
    assert [r["liquidation_type"] for r in rows["orders"]] == [0, 2, 3, 1, 1, -1]
    kinds = [r["type"] for r in rows["order_history"]]
    assert kinds == ["liquidation", "liquidation", "adl", "liquidation", "liquidation", "order"]
    assert len(rows["liquidation_history_details"]) == 4


def test_the_order_books_kinds(world: World) -> None:
    def execution(kind: int) -> Emission:
        return world.log("passive_perp", "PassivePerpExecutionV3", payload={"executionType": kind})

    rows = tables([execution(kind) for kind in range(7)])
    assert [r["liquidation_type"] for r in rows["orders"]] == [-1, 0, 1, 2, 3, None, None]
    liquidations = ["liquidation"] * 3
    assert [r["type"] for r in rows["order_history"]] == ["order", *liquidations, "adl", "market_close", "execution_6"]


def test_a_row_that_does_not_fit_leaves_the_one_before(world: World) -> None:
    largest = 2**255 - 1
    rows = tables(*([world._shares(ACCOUNT, largest)] for _ in range(18)))
    assert len(rows["account_collateral_balance_entries"]) == 18
    assert [r["balance"] for r in rows["account_balances"]] == [17 * largest]
    lower = tables([world._shares(ACCOUNT, largest)] * 18 + [world._shares(ACCOUNT, -largest)] * 2)
    assert [r["balance"] for r in lower["account_balances"]] == [16 * largest]


def test_text_that_postgresql_refuses_leaves_the_row_out(world: World) -> None:
    names = ["good", "a\0b"]
    rows = tables([world.log("core", "MarketRegistered", marketId=n, name=name) for n, name in enumerate(names)])
    assert [r["name"] for r in rows["market_storage"]] == ["good"]


def test_what_no_abi_reads_is_counted(world: World) -> None:
    deposit = world.log("core", "Deposited")
    odd = [
        replace(deposit, topics=deposit.topics[:3]),
        replace(deposit, data=deposit.data[:-1]),
        replace(deposit, topics=()),
        replace(deposit, topics=(b"\x07" * 32,)),
        replace(deposit, address="0x" + "77" * 20),
    ]
    counted = {(r["reason"], r["topic0"]): r["count"] for r in tables(odd, [deposit])["indexer.undecoded"]}
    topic = "0x" + deposit.topics[0].hex()
    assert counted == {("does not fit", topic): 2, ("no topics", ""): 1, ("unknown topic", "0x" + "07" * 32): 1}
