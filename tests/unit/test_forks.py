"""The fork-point search against brute force, and nodes that change their mind in the middle of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from indexer.chain.forks import ForkSearch, ForkSearchOutcome
from indexer.chain.types import BlockRef


def anchor(number: int, branch: str = "a") -> BlockRef:
    return BlockRef(number, f"{branch}{number}".encode().rjust(32, b"\0"), number)


def search(anchors: list[BlockRef], forked_above: int) -> tuple[ForkSearch, int, int]:
    """The finished search, its rounds and its questions, on a node whose blocks above `forked_above` are others."""
    found, rounds, asked = ForkSearch(anchors), 0, 0
    while wanted := found.ask():
        rounds, asked = rounds + 1, asked + len(wanted)
        assert rounds < 20 and len(set(wanted)) == len(wanted)
        found.tell({n: anchor(n, "a" if n <= forked_above else "b").hash for n in wanted})
    return found, rounds, asked


@given(st.sets(st.integers(0, 500), max_size=80), st.integers(-1, 500))
def test_it_finds_the_highest_common_anchor_as_brute_force_does(numbers: set[int], forked_above: int) -> None:
    anchors = [anchor(n) for n in sorted(numbers)]
    common = [a for a in anchors if a.number <= forked_above]
    found, _, _ = search(anchors, forked_above)
    if common:
        assert (found.outcome, found.fork) == (ForkSearchOutcome.COMMON, common[-1])
    else:
        assert found.outcome is ForkSearchOutcome.BELOW_RETAINED


def test_a_shallow_fork_takes_one_round_and_the_whole_window_of_an_orbit_chain_few() -> None:
    anchors = [anchor(n) for n in range(20_000)]
    assert search(anchors, 19_998)[1] == 1
    for depth in (2, 64, 1_000, 19_999):
        found, rounds, asked = search(anchors, 19_999 - depth)
        assert found.fork.number == 19_999 - depth and rounds <= 5 and asked <= 80


@given(st.integers(1, 200), st.dictionaries(st.integers(0, 199), st.sampled_from([b"x" * 32, None]), max_size=50))
def test_answers_that_contradict_each_other_or_are_missing_conclude_nothing_wrong(
    length: int, wrong: dict[int, bytes | None]
) -> None:
    anchors = [anchor(n) for n in range(length)]
    found, rounds = ForkSearch(anchors), 0
    told: dict[int, bytes | None] = {}
    while wanted := found.ask():
        rounds += 1
        assert rounds < 20
        answers = {n: wrong.get(n, anchor(n).hash) for n in wanted}
        told |= answers
        found.tell(answers)
    if found.outcome is ForkSearchOutcome.COMMON:
        assert told[found.fork.number] == found.fork.hash
        higher = found.fork.number + 1
        assert higher == length or told[higher] != anchor(higher).hash
    elif found.outcome is ForkSearchOutcome.BELOW_RETAINED:
        assert told[0] not in (None, anchor(0).hash)


def test_a_node_that_switches_chains_in_the_middle_is_inconclusive() -> None:
    found = ForkSearch([anchor(n) for n in range(10)])
    found.tell({9: anchor(9).hash, 5: b"other".rjust(32, b"\0")})
    assert found.outcome is ForkSearchOutcome.INCONCLUSIVE and found.ask() == []
