"""S1 to S3: the newest blocks are replaced, by fewer, or are merely not served any more."""

from __future__ import annotations

import pytest

from tests.scenarios.harness import Stage, after


@pytest.mark.parametrize("logs", [True, False], ids=["with logs", "without logs"])
async def test_s01_same_height_tip_replacement(logs: bool, stage: Stage) -> None:
    daemon = await stage.start()
    other = stage.busy("b", 99, 1) if logs else stage.empty("b", 99, 1)
    assert bool(other.txs) == logs
    stage.show(other)
    await daemon.poll()
    await stage.equals(other, [(99, 1)])  # without waiting for 101
    tip = stage.grow(other, 3)
    stage.show(tip)
    await daemon.settle()
    await stage.equals(tip, [(99, 1)])


SHORTER = {"105b at once": [5], "104b first": [4, 5], "the fork point first": [3, 5]}


@pytest.mark.parametrize("seen", SHORTER.values(), ids=SHORTER)
async def test_s02_shorter_canonical_chain(seen: list[int], stage: Stage) -> None:
    a = stage.grow(stage.main, 10)
    stage.show(a)
    daemon = await stage.start()
    b = stage.fork("b", 103, 12, tip=a)
    for above in seen:
        stage.show(stage.at(b, 100 + above))
        await daemon.poll()
        if above == 3:  # a head on the stored chain denies nothing
            await stage.untouched(a)
        else:
            await stage.equals(stage.at(b, 100 + above), [(103, 7)])
    for number in range(106, 116):
        stage.show(stage.at(b, number))
        await daemon.poll()
    await stage.equals(b, [(103, 7)])


@pytest.mark.parametrize("failover", [False, True], ids=["the same node", "failover to another node"])
async def test_s03_head_goes_back_without_a_fork(failover: bool, stage: Stage) -> None:
    daemon = await stage.start(0, 1)
    node = stage.nodes[failover]
    stage.nodes[not failover].offline = True
    node.lag = 25
    for _ in range(30):
        await daemon.poll()
        assert (daemon.progress.waiting, daemon.errors, daemon.progress.head) == ("", 0, 75)
    assert daemon.progress.regressions == 1
    await stage.stands_at(stage.main)
    node.lag = 0
    await daemon.poll()
    await stage.untouched(stage.main)
    tip = stage.grow(stage.main, 4)
    stage.show(tip)
    await daemon.settle()
    await stage.untouched(tip)


async def test_s03_a_head_whose_block_is_answered_with_null(stage: Stage) -> None:
    """One half of a balanced endpoint announces a head that the other half does not have."""
    daemon, node = await stage.start(), stage.nodes[0]
    tip = stage.grow(stage.main, 5)
    stage.show(tip)

    def halves(method: str, params: list[object]) -> None:
        tag = method == "eth_getBlockByNumber" and params[0] in ("latest", "safe", "finalized")
        node.lag = 0 if tag else 25

    node.on_request = halves
    for turn in range(10):
        await daemon.poll()
        assert daemon.errors == turn + 1
    await stage.stands_at(stage.main)
    node.on_request = None
    node.lag = 0
    await daemon.settle()
    await stage.untouched(tip)


async def test_s03_a_head_below_what_is_final_in_the_middle_of_a_reorg(stage: Stage) -> None:
    """The look that follows a broken seam reaches a lagging backend: that proves no fork below finalized."""
    daemon, node = await stage.start(), stage.nodes[0]
    tip = stage.fork("b", 97, 20)
    stage.show(tip)
    node.on_request = after(1, lambda: setattr(node, "lag", 90), "eth_getLogs", "eth_getBlockByNumber")
    await daemon.poll(3)
    assert "halted" not in daemon.progress.waiting
    await stage.stands_at(stage.main)
    node.lag = 0
    await daemon.settle()
    await stage.equals(tip, [(97, 3)])
