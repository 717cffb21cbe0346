"""What each purpose may ask, and who comes first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.rpc.budget import BURST, Budgets, PriorityLock
from indexer.rpc.pool import Pool
from indexer.rpc.rate_limit import RequestPurpose, TokenBucket, current_purpose, request_purpose
from tests.support.stubnode import StubNode
from tests.support.waiting import eventually, guard


@given(st.floats(0.1, 100), st.floats(1, 50), st.lists(st.floats(0, 3), min_size=2, max_size=60))
def test_a_burst_is_all_that_passes_above_the_rate(rps: float, burst: float, pauses: list[float]) -> None:
    bucket, now, passed = TokenBucket(rps, burst), 5.0, list[float]()
    for pause in pauses:
        now += pause
        now += bucket.wait(now)
        bucket.take(now)
        passed.append(now)
    for start, first in enumerate(passed):
        for end in range(start, len(passed)):
            assert end - start + 1 <= burst + rps * (passed[end] - first) * (1 + 1e-6) + 1e-3


def test_the_purpose_is_that_of_the_code_and_of_the_tasks_it_starts() -> None:
    async def told() -> str:
        return current_purpose()

    async def main() -> list[str]:
        with request_purpose("attest"):
            task = asyncio.create_task(told())
            with request_purpose(None):
                inner = current_purpose()
        return [current_purpose(), inner, await task]

    assert asyncio.run(main()) == ["follow", "attest", "attest"]


async def test_a_budget_is_kept_and_counted_and_others_do_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 0.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    monkeypatch.setattr("indexer.rpc.budget.asyncio.sleep", sleep)
    budgets = Budgets({"attest": 2}, clock=lambda: now)
    with request_purpose("attest"):
        for _ in range(int(2 * BURST)):
            await budgets.take()
        assert not slept
        for _ in range(4):
            await budgets.take()
    assert sum(slept) == pytest.approx(2) == pytest.approx(budgets.waited["attest"])
    for _ in range(50):
        await budgets.take()
    assert (budgets.spent["attest"], budgets.spent["follow"], len(slept)) == (14, 50, 4)


async def test_who_waits_longest_of_the_most_urgent_comes_first_and_who_leaves_is_passed_over() -> None:
    turns, served = PriorityLock(), list[str]()

    async def come(on: RequestPurpose, name: str) -> None:
        with request_purpose(on):
            async with turns:
                served.append(name)
                await asyncio.sleep(0)

    await turns.__aenter__()
    tasks: list[asyncio.Task[Any]] = []
    for name, on in (("a1", "attest"), ("b1", "backfill"), ("a2", "attest"), ("f1", "follow"), ("f2", "follow")):
        tasks.append(asyncio.create_task(come(on, name)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
    tasks[3].cancel()
    await asyncio.sleep(0)
    await turns.__aexit__()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served == ["f2", "b1", "a1", "a2"]
    async with turns:  # free again
        pass


async def test_a_turn_given_to_one_who_is_cancelled_goes_on_to_the_next() -> None:
    turns = PriorityLock()
    await turns.__aenter__()
    first, second = (asyncio.create_task(turns.__aenter__()) for _ in range(2))
    await asyncio.sleep(0)
    await turns.__aexit__()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with guard("the turn that was passed on"):
        await second


async def test_proofs_within_their_budget_never_starve_the_head() -> None:
    """One endpoint with a cap, and proofs that ask as fast as they may: a look at the head waits for one request."""
    async with StubNode() as node:
        pool = Pool([node.url], 1729, rps=50)
        await pool.open()

        async def prove() -> None:
            while True:
                await pool.with_failover(lambda reader: reader.header(5), purpose="attest")

        proving, endpoint = [asyncio.create_task(prove()) for _ in range(20)], pool.readers[0].endpoint
        await eventually(lambda: len(endpoint.gate._lock._waiting) > 15, "proofs that wait for their turn")
        before = endpoint._next_id  # counts the calls in the order in which they pass
        await pool.with_failover(lambda reader: reader.heads())
        heads = next(r for r in reversed(node.requests) if isinstance(r, list))
        for task in proving:
            task.cancel()
        await asyncio.gather(*proving, return_exceptions=True)
        assert heads[0]["id"] - before <= 3  # first come, first served would be twenty
        assert pool.budgets.spent["attest"] > 0
        await pool.close()
