"""S15 to S17: rows that follow from other rows, accounts that were born on the wrong fork, equal times."""

from __future__ import annotations

from typing import Any

import pytest

from indexer.follow import engine
from indexer.projector import rewriter
from tests.scenarios.harness import Stage
from tests.support.simchain.chain import Block, SimLog, SimTx

ACCOUNT, MAKER, MARKET = 900_001, 900_002, 1
ONE, TWO, NOBODY = "0x" + "0a" * 20, "0x" + "0b" * 20, "0x" + "00" * 20


def owner(stage: Stage, address: str, account: int = ACCOUNT) -> SimLog:
    return stage.log("core", "AccountOwnerUpdated", accountId=account, newOwner=address)


def trade(stage: Stage, kind: int, before: int, after: int, price: int = 7) -> SimLog:
    payload = {
        "executionType": kind, "executedBase": after - before, "price": price,
        "accountPositionBefore": {"base": before}, "accountPositionAfter": {"base": after},
    }  # fmt: skip
    return stage.log(
        "passive_perp", "PassivePerpExecutionV3", marketId=MARKET, accountId=ACCOUNT, counterpartyAccountId=MAKER,
        payload=payload,
    )  # fmt: skip


def shares(stage: Stage, delta: int) -> SimLog:
    rusd = stage.world.abis.addresses["rusd"]
    return stage.log("core", "AccountCollateralSharesUpdated", accountId=ACCOUNT, collateral=rusd, sharesDelta=delta)


def market(stage: Stage, *, book: bool, **data: int) -> SimLog:
    """Only the order book's generation of the event states a mark price."""
    return stage.log("passive_perp", "MarketDataUpdated", int(book), marketData={"id": MARKET} | data)


def span(stage: Stage) -> list[list[SimTx]]:
    """Eight blocks, 101 to 108."""
    logs = [
        [shares(stage, -5)],  # a row created by a debit
        [owner(stage, ONE), market(stage, book=False)],
        [owner(stage, NOBODY)],
        [owner(stage, TWO), shares(stage, 9)],
        [trade(stage, 0, 0, 40), market(stage, book=True)],
        [shares(stage, -1), shares(stage, -2)],
        [trade(stage, 2, 40, 0)],  # a liquidation
        [market(stage, book=False), owner(stage, ONE)],
    ]
    return [[stage.tx(*block)] for block in logs]


@pytest.mark.parametrize("stepwise", [False, True], ids=["one step", "a step for each block"])
@pytest.mark.parametrize("kept", [0, 3, 4, 6])
async def test_s15_derived_state_is_taken_back_to_the_middle_of_a_span(
    kept: int, stepwise: bool, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriter, "MAX_STEP_LOGS", 3)
    daemon = await stage.start()
    a = stage.chain(stage.main, *span(stage), salt=b"a")
    for number in range(101, 109) if stepwise else ():
        stage.show(stage.at(a, number))
        await daemon.poll()
    stage.show(a)
    await daemon.settle()
    bare = stage.empty("bare", 100 + kept, 9 - kept, tip=a)
    stage.show(bare)
    await daemon.settle()
    await stage.equals(bare, [(100 + kept, 8 - kept)])
    # And forward again: the same transactions in other blocks, on what was restored.
    rest = [tx for block in span(stage)[kept:] for tx in block]
    again = stage.chain(bare, rest[::2], rest[1::2], salt=b"again")
    stage.show(again)
    await daemon.settle()
    await stage.equals(again, [(100 + kept, 8 - kept)])


def born(stage: Stage, first: str) -> SimLog:
    names: dict[str, Any] = {"from": NOBODY, "to": first}
    return stage.log("account_nft", "Transfer", tokenId=ACCOUNT, **names)


@pytest.mark.parametrize("together", [True, False], ids=["in one transaction", "across a range"])
@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back elsewhere", "never comes back"])
async def test_s16_child_created_and_at_work_in_the_same_range_then_orphaned(
    together: bool, comes_back: bool, stage: Stage
) -> None:
    """An account is this protocol's child: minted, owned and trading at once."""
    logs = [born(stage, ONE), owner(stage, ONE), shares(stage, 50), trade(stage, 0, 0, 3), trade(stage, 0, 3, 1)]
    txs = [stage.tx(*logs)] if together else [stage.tx(log) for log in logs]
    blocks = [txs] if together else [txs[:1], txs[1:3], txs[3:]]
    a = stage.chain(stage.main, *blocks, salt=b"a")
    stage.show(a)
    daemon = await stage.start()
    await stage.equals(a)
    later = stage.tx(born(stage, TWO), owner(stage, TWO), trade(stage, 2, 1, 0), hash=txs[0].hash)
    b = stage.chain(stage.main, stage.filler(stage.main), [later] if comes_back else [], [], salt=b"b")
    stage.show(b)
    await daemon.settle()
    rows = await stage.fetch("SELECT new_owner FROM account_owner_updated_snapshot WHERE account_id = $1", ACCOUNT)
    assert rows == ([(TWO,)] if comes_back else [])
    await stage.equals(b, [(100, len(blocks))])


async def test_s16_a_contract_that_is_watched_from_now_on_when_a_reorg_comes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its past comes in many pages; the fork takes back what is stored of it above the fork point, too."""
    monkeypatch.setattr(engine, "LOOK_INTERVAL_S", 0.0)
    daemon = await stage.start(without=["account_nft", "srusd"])
    await daemon.stop()
    b, node = stage.fork("b", 92, 12), stage.nodes[0]
    daemon = await stage.start(settled=False, max_blocks=9)
    for _ in range(10):
        await daemon.poll()
    assert await stage.value("SELECT max(upper(blocks)) FROM indexer.coverage WHERE lower(blocks) = 0") == 101
    node.head = b.hash
    await daemon.settle()
    await stage.equals(b, [(92, 8)])


@pytest.mark.parametrize("kept", [0, 2], ids=["all four are replaced", "two of four are replaced"])
async def test_s17_four_blocks_of_one_timestamp(kept: int, stage: Stage) -> None:
    second = stage.main.timestamp + 5

    def blocks(name: str, parent: Block, prices: list[int]) -> Block:
        made = [
            [stage.tx(market(stage, book=True, markPrice=p), trade(stage, 0, 0, 1, p), trade(stage, 0, 1, 0, p + 1))]
            for p in prices
        ]
        return stage.chain(parent, *made, salt=name.encode(), timestamp=second)

    async def last_prices() -> tuple[int, list[int]]:
        """The market's, and those of its trades in the order of the chain."""
        trades = await stage.fetch("SELECT price FROM orders WHERE block_number > 100 ORDER BY unique_id")
        mark = await stage.value("SELECT mark_price FROM market_trackers WHERE market_data_id = $1", MARKET)
        return mark, [price for (price,) in trades]

    a = blocks("a", stage.main, [10, 20, 30, 40])
    assert {stage.at(a, n).timestamp for n in range(101, 105)} == {second}
    stage.show(a)
    daemon = await stage.start()
    assert await last_prices() == (40, [10, 11, 20, 21, 30, 31, 40, 41])
    prices = [50, 60, 70, 80][kept:]
    b = blocks("b", stage.at(a, 100 + kept), prices)
    stage.show(b)
    await daemon.settle()
    assert await last_prices() == (80, [10, 11, 20, 21][: 2 * kept] + [q for p in prices for q in (p, p + 1)])
    await stage.equals(b, [(100 + kept, 4 - kept)])
