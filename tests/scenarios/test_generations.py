"""S20: what one block may hold of different releases of the contracts, and logs that no release of ours knows."""

from __future__ import annotations

from dataclasses import replace

from tests.scenarios.harness import Stage
from tests.support.simchain.chain import SimLog

MARKET, TAKER, MAKER = 1, 910_001, 910_002


def executions(stage: Stage) -> list[SimLog]:
    """An order in every generation, two of each name."""
    sides = {"marketId": MARKET, "accountId": TAKER}
    both = sides | {"counterpartyAccountId": MAKER}
    payload = {
        "executionType": 0, "executedBase": 9,
        "accountPositionBefore": {"base": 3}, "accountPositionAfter": {"base": 12},
    }  # fmt: skip
    return [
        *(stage.log("passive_perp", "PassivePerpMatchOrder", n, orderBase=5, **sides) for n in (0, 1)),
        stage.log("passive_perp", "PassivePerpOrderAndPositionUpdate", executedBase=7, **both),
        *(stage.log("passive_perp", "PassivePerpExecutionV3", n, payload=payload, **both) for n in (0, 1)),
    ]


async def test_s20_two_abi_generations_in_one_block_unknown_and_misfit_events(stage: Stage) -> None:
    daemon = await stage.start()
    known = executions(stage)
    stranger = replace(stage.log("core", "AccountCreated", accountId=1), topics=(b"\x5a" * 32, b"\x01" * 32))
    cut = replace(known[0], data=known[0].data[:-1])
    bare = replace(known[1], topics=known[1].topics[:-1])  # as if an argument were indexed no more
    anonymous = replace(known[2], topics=())
    odd = [stranger, cut, bare, anonymous]
    # Odd ones before, between and behind, in one transaction and in one of their own.
    block = [stage.tx(odd[0], *known[:3], odd[1], *known[3:]), stage.tx(*odd[2:]), stage.tx(*known)]
    a = stage.chain(stage.main, block, salt=b"a")
    stage.show(a)
    await daemon.settle()
    await stage.untouched(a)
    place = "block_number = 101"
    assert await stage.value(f"SELECT count(*) FROM orders WHERE {place}") == 2 * len(known)
    assert await stage.value(f"SELECT count(*) FROM indexer.raw_log WHERE {place}") == 2 * len(known) + len(odd)
    opened = "SELECT kind, count FROM indexer.incident WHERE first_block = 101 AND resolved_at IS NULL ORDER BY 1, 2"
    kinds = [kind for kind, _ in await stage.fetch(opened)]
    assert kinds == ["undecodable_log", "undecodable_log", "unknown_topic", "unknown_topic"]
    details = [detail for (detail,) in await stage.fetch("SELECT detail FROM indexer.incident WHERE first_block = 101")]
    assert all("from block 101 on PnL and positions are unproven" in detail for detail in details)
    # A reorg takes them back with all that they opened.
    b = stage.empty("b", 100, 3)
    stage.show(b)
    await daemon.settle()
    await stage.equals(b, [(100, 1)])
    assert await stage.fetch(opened) == []
