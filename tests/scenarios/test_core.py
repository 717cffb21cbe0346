"""The scenarios without I/O: tables of observations and the actions they must lead to."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from indexer.attest.evidence import LogDifference, differences
from indexer.chain.bloom import mask
from indexer.chain.forks import ClaimKind, ForkClaim, ForkSearch, ForkSearchOutcome
from indexer.chain.ranges import ContractRange
from indexer.chain.types import BlockRef, Header, Log
from indexer.db.catalog import COLUMNS
from indexer.errors import InconsistentResponseError, ParentMismatchError
from indexer.follow import state_machine
from indexer.follow.state_machine import Claims, Conflict, Follower, HeadSeen, Mode
from indexer.ingest.confirm import blocks_with_unmet_bloom, confirm_final_range, confirm_head_range
from indexer.projections.events import Event
from indexer.projections.project import project, state_keys
from indexer.projections.row_encoder import RowEncoder
from indexer.projections.write_set import WriteSet
from indexer.rpc import receipts, wire

CORE = bytes.fromhex("c33d0a4fc05af98447126f1680ca7316de29e5d4")
WATCHED = ["0x" + CORE.hex()]
REST, SEARCH = state_machine.Wait, state_machine.SearchFork


def digest(number: int, fork: str = "a") -> bytes:
    return f"{fork}{number}".encode().rjust(32, b"\0")


def header(number: int, fork: str = "a", parent: str = "", bloom: bytes = b"") -> Header:
    return Header(number, digest(number, fork), digest(number - 1, parent or fork), 1000 + number, bloom)


def anchor(number: int, fork: str = "a") -> BlockRef:
    return BlockRef(number, digest(number, fork), 1000 + number)


def log(number: int, fork: str = "a", index: int = 0) -> Log:
    return Log(number, index, CORE, b"\1" * 32, 0, (b"\2" * 32,), b"", digest(number, fork), 1000 + number)


def seen(number: int, fork: str = "a", at_head: bytes | None = None, **other: object) -> HeadSeen:
    """The head; what is stored is fork a up to 100, final up to 60, projected."""
    state = HeadSeen(
        header(number, fork), digest(number) if number <= 100 and at_head is None else at_head, anchor(100), 100, 100,
        60, True, False, None, (),
    )  # fmt: skip
    return replace(state, **other)  # type: ignore[arg-type]


def forked(number: int, endpoint: str = "one") -> ForkClaim:
    return ForkClaim(endpoint, ClaimKind.FORK, anchor(number), anchor(105, "b"))


def found(finding: ClaimKind, endpoint: str = "one") -> ForkClaim:
    return ForkClaim(
        endpoint, finding, anchor(100) if finding is ClaimKind.SAME else None, anchor(100), f"{endpoint} says"
    )


def play(
    *turns: tuple[state_machine.Observation, type[state_machine.Action]], follower: Follower | None = None
) -> Follower:
    """Each observation must lead to an action of that kind."""
    follower = follower or Follower()
    for n, (observation, expected) in enumerate(turns):
        action = follower.observe(observation)
        assert isinstance(action, expected), f"turn {n}: {observation} led to {action}"
    return follower


def search(anchors: list[BlockRef], chain: dict[int, bytes]) -> ForkSearch:
    made = ForkSearch(anchors)
    while wanted := made.ask():
        made.tell({n: chain.get(n) for n in wanted})
    return made


STORED = [anchor(n) for n in range(60, 101)]


def fork_above(number: int, head: int) -> dict[int, bytes]:
    return {n: digest(n, "a" if n <= number else "b") for n in range(head + 1)}


def test_s01_core() -> None:
    play(
        (seen(100, "b"), SEARCH),
        (Claims((forked(99),), False), state_machine.ReplaceFork),
        (state_machine.StateChanged(), state_machine.Refresh),
    )
    assert search(STORED, fork_above(99, 100)).fork == anchor(99)


def test_s02_core() -> None:
    """The head, not the stored tip, bounds the search."""
    stored = [anchor(n) for n in range(60, 111)]
    for head in (104, 105, 109):
        below = [a for a in stored if a.number <= head]
        assert search(below, fork_above(103, head)).fork == anchor(103)
        play((seen(head, "b", digest(head), tip=anchor(110)), SEARCH))


def test_s03_core() -> None:
    follower = Follower()
    for number in [75] * 600 + [99, 60, 59, 0, 100]:
        action = follower.observe(seen(number))
        assert action == REST() and follower.mode is Mode.FOLLOWING
    # A block that is not stored any more denies nothing either.
    play((replace(seen(75), at_head=None), REST), follower=follower)
    # Below what is final in the middle of a search: neither a halt nor a delete.
    play(
        (Conflict(101, "seam"), SEARCH), (Claims((found(ClaimKind.LAGGING),), False), SEARCH),
        (Claims((found(ClaimKind.LAGGING), found(ClaimKind.UNCLEAR)), True), REST), follower=follower,
    )  # fmt: skip
    assert follower.mode is Mode.WAITING


def test_s04_core() -> None:
    headers = [header(n, "b") for n in range(97, 101)]
    with pytest.raises(InconsistentResponseError):
        confirm_head_range(97, 100, WATCHED, [log(98, "a")], headers, digest(96, "b"))
    with pytest.raises(InconsistentResponseError):
        confirm_final_range(97, 100, WATCHED, [log(100, "a")], [headers[0], headers[-1]], digest(96, "b"))
    with pytest.raises(InconsistentResponseError):  # the chain changed between two headers of one answer
        confirm_head_range(97, 100, WATCHED, [], [*headers[:2], header(99, "c"), header(100, "c")], digest(96, "b"))
    with pytest.raises(ParentMismatchError):  # the chain changed between two pages
        confirm_head_range(97, 100, WATCHED, [], headers, digest(96, "a"))
    with pytest.raises(InconsistentResponseError):
        receipts.addresses_logged([{"blockHash": "0x" + digest(98, "a").hex(), "logs": []}], header(98, "b"))


def test_s05_core() -> None:
    """What tells an omission or a made-up index apart, once an endpoint says the truth."""
    blocks, headers = [anchor(98)], [header(98)]
    both = [log(98, index=4), log(98, index=7)]
    assert differences(blocks, both, headers, both) == []
    assert differences(blocks, both[:1], headers, both) == [LogDifference(98, "missing log", 7)]
    moved = [both[0], log(98, index=9)]
    assert differences(blocks, moved, headers, both) == [
        LogDifference(98, "missing log", 7), LogDifference(98, "foreign log", 9)
    ]  # fmt: skip


def test_wrong_logs_at_the_head_are_healed_by_the_holder_alone_after_forks_and_projection() -> None:
    heal, project, ingest = state_machine.HealHead, state_machine.Project, state_machine.Ingest
    missing = (ContractRange(101, 102, ("0x1",)),)
    assert Follower().observe(seen(102, wrong_from=90, ranges=missing)) == heal(90)
    play((seen(100, wrong_from=60), REST))  # final: the auditor's
    play((seen(102, wrong_from=90, holder=False, ranges=missing), ingest))
    play((seen(100, "b", wrong_from=90), SEARCH))
    play((seen(100, wrong_from=90, contiguous_end=110), project))


def test_in_strict_mode_nothing_is_projected_beyond_what_is_proven() -> None:
    follower = Follower()
    assert follower.observe(seen(120, contiguous_end=120, unproven_from=111)) == state_machine.Project(110)
    missing = (ContractRange(121, 122, ("0x1",)),)
    waits = seen(120, contiguous_end=120, unproven_from=101)
    assert follower.observe(replace(waits, ranges=missing)) == state_machine.Ingest(missing[0])
    action = follower.observe(waits)
    assert isinstance(action, state_machine.Wait) and "a proof of the stored blocks 101 to 120" in action.reason
    assert follower.observe(replace(waits, holder=False)) == REST()


def test_s06_core() -> None:
    bloom = mask(CORE).to_bytes(256, "big")
    early = confirm_head_range(100, 101, WATCHED, [], [header(100, bloom=bytes(256)), header(101, bloom=bloom)], None)
    assert [b.number for b in blocks_with_unmet_bloom(early)] == [101]
    late = confirm_head_range(101, 101, WATCHED, [log(101)], [header(101, bloom=bloom)], None)
    assert blocks_with_unmet_bloom(late) == []
    # The proof: a receipt of that block with a log of ours, or with none.
    address = {"address": "0x" + CORE.hex()}, {"address": "0x" + "77" * 20}
    logged = [
        receipts.addresses_logged([{"blockHash": "0x" + digest(101).hex(), "logs": [a]}], header(101)) for a in address
    ]
    assert [CORE in addresses for addresses in logged] == [True, False]
    with pytest.raises(InconsistentResponseError):
        receipts.addresses_logged([], header(101))


def event(block: int, index: int, name: str, **args: object) -> Event:
    return Event(block, 1000 + block, index, "0x" + "11" * 32, WATCHED[0], "0x", name, dict(args))


def ledger(*events: Event, floor: int = 60) -> WriteSet:
    made = WriteSet(RowEncoder(COLUMNS), dict.fromkeys(state_keys(events)), floor)
    project(made, events)
    return made


def owner(block: int, index: int, name: str) -> Event:
    return event(block, index, "AccountOwnerUpdated", accountId=7, newOwner=name)


def test_s07_core() -> None:
    """Rows name the transaction and the log, and carry the payload of the fork they were projected from."""
    orphan, canonical = ledger(owner(100, 3, "one")), ledger(owner(101, 5, "two"))
    history = "account_owner_updated_history"
    assert [r["id"] for r in orphan.rows(history)] == ["0x" + "11" * 32 + "-3"]
    assert [(r["id"], r["new_owner"]) for r in canonical.rows(history)] == [("0x" + "11" * 32 + "-5", "two")]


def test_s08_core() -> None:
    """A worker without the lease neither searches nor replaces; whoever was beaten looks again."""
    segment = ContractRange(91, 100, tuple(WATCHED))
    worker = play(
        (seen(100, ranges=(segment,), holder=False), state_machine.Ingest),
        (state_machine.StateChanged(), state_machine.Refresh),
    )
    play((Conflict(96, "stored with another hash"), REST), follower=worker)
    assert worker.mode is Mode.STANDBY
    with pytest.raises(ParentMismatchError):
        confirm_head_range(91, 100, WATCHED, [], [header(n) for n in range(91, 101)], digest(90, "b"))


def test_s09_core() -> None:
    # The chain moves in the middle of the search: nothing is concluded, and everyone is asked.
    moving = ForkSearch(STORED)
    moving.tell({n: digest(n, "a" if n == 99 else "b") for n in moving.ask()})
    assert moving.outcome is ForkSearchOutcome.INCONCLUSIVE
    turns: list[tuple[state_machine.Observation, type[state_machine.Action]]] = [
        (seen(100, "b"), SEARCH), (Claims((found(ClaimKind.UNCLEAR),), False), SEARCH),
        (Claims((found(ClaimKind.UNCLEAR),), True), REST),
    ]  # fmt: skip
    assert play(*turns).mode is Mode.WAITING
    # And back to the stored chain: the next look finds nothing to do. Twenty times, without end or delete.
    follower = Follower()
    for _ in range(20):
        play(*turns, (seen(100), REST), follower=follower)
        assert follower.mode is Mode.FOLLOWING


def test_s10_core() -> None:
    """What a restart forgets of the follower changes nothing: the same look leads to the same action."""
    observations: list[state_machine.Observation] = [
        seen(100, "b"), seen(101), seen(80), seen(100, checkpoint=80), seen(100, stale=True),
        seen(100, checkpoint=80, unconfirmed=anchor(100)), seen(101, ranges=(ContractRange(101, 101, ("x",)),)),
        Conflict(101, "seam"),
    ]  # fmt: skip
    rng, lived = random.Random(10), Follower()
    lived.observe(seen(100))
    for _ in range(200):
        observation = rng.choice(observations)
        fresh = Follower()
        fresh.observe(seen(100))
        assert lived.observe(observation) == fresh.observe(observation)


def test_s11_core() -> None:
    deep, same, fork = found(ClaimKind.DEEP), found(ClaimKind.SAME, "two"), forked(97, "two")
    asked = (Conflict(101, "seam"), SEARCH), (Claims((deep,), False), SEARCH)
    start = (seen(101), REST)
    halted = play(start, *asked, (Claims((deep, found(ClaimKind.DEEP, "two")), True), state_machine.Halt))
    assert halted.mode is Mode.HALTED
    for other in (same, fork):
        action = play(start, *asked).observe(Claims((deep, other), True))
        assert isinstance(action, state_machine.SetEndpointsAside) and action.endpoints == ("one",)
    # One that merely lags or does not answer is no witness for the stored chain.
    for other in (found(ClaimKind.LAGGING, "two"), found(ClaimKind.UNCLEAR, "two")):
        play(start, *asked, (Claims((deep, other), True), state_machine.Halt))
    # A stored hash below finalized that nobody has: named, not searched for ever.
    play(start, (Conflict(50, "stored with another hash"), SEARCH), (Claims((found(ClaimKind.SAME),), False), SEARCH),
         (Claims((found(ClaimKind.SAME),), True), state_machine.Halt))  # fmt: skip
    assert search(STORED, fork_above(59, 100)).outcome is ForkSearchOutcome.BELOW_RETAINED


def test_s12_core() -> None:
    """The head is far above; what is stored is compared by number."""
    assert search(STORED, fork_above(95, 200_000)).fork == anchor(95)
    late = seen(200_000, "b", ranges=(ContractRange(101, 200_000, ("x",)),))
    play(
        (late, state_machine.Ingest),
        (Conflict(101, "seam"), SEARCH),
        (Claims((forked(95),), False), state_machine.ReplaceFork),
    )
    # Stored but not projected yet: the tip is confirmed before a row follows from it.
    unprojected = replace(late, checkpoint=80, unconfirmed=anchor(100))
    play((unprojected, state_machine.Confirm), (Conflict(100, "gone"), SEARCH))
    play((replace(unprojected, stale=True, checkpoint=100), state_machine.Confirm), (Conflict(100, "gone"), SEARCH))
    play((replace(unprojected, unconfirmed=None), state_machine.Project))


def test_s13_core() -> None:
    waiting = play(
        (seen(100, "b"), SEARCH), (Claims((forked(97),), False), state_machine.ReplaceFork),
        (state_machine.ReplacementUnavailable(98, 100, "pruned"), REST),
    )  # fmt: skip
    assert waiting.mode is Mode.WAITING
    play((seen(100, "b"), SEARCH), (Claims((forked(97),), False), state_machine.ReplaceFork), follower=waiting)


def test_s14_core() -> None:
    """Without the lease a fork is seen and left alone; a recovery that asks for the lease is let in."""
    standby = play((seen(100, "b", holder=False), REST))
    assert standby.mode is Mode.STANDBY
    paused = play((seen(100, "b"), SEARCH), (state_machine.Paused("somebody"), REST))
    assert paused.mode is Mode.PAUSED
    play((seen(100, checkpoint=80, holder=False), REST))


def test_s15_core() -> None:
    """Before-images hold what a row was before each block, None where there was none, and only above the floor."""
    table, key = "account_owner_updated_snapshot", (7,)
    made = ledger(owner(60, 0, "zero"), owner(61, 0, "one"), owner(61, 4, "two"), owner(62, 0, "three"))
    images = {
        number: row["new_owner"] if isinstance(row, dict) else row
        for (number, at), row in made.before.items()
        if at == (table, key)
    }
    assert images == {61: "zero", 62: "two"}
    fresh = ledger(owner(61, 0, "one"))
    assert list(fresh.before.values()) == [None]


def test_s17_core() -> None:
    """Order is block and log index; times may be equal."""
    events = [
        replace(owner(number, index, f"{number}-{index}"), block_time=5) for number in (100, 101) for index in (2, 11)
    ]
    made = ledger(*events)
    rows = made.rows("account_owner_updated_history")
    assert [r["new_owner"] for r in sorted(rows, key=lambda r: r["unique_id"])] == [
        "100-2",
        "100-11",
        "101-2",
        "101-11",
    ]
    row = made.get("account_owner_updated_snapshot", (7,))
    assert row is not None and row["new_owner"] == "101-11"


def entry(number: int, index: int, **other: object) -> dict[str, object]:
    return {
        "address": WATCHED[0], "topics": [], "data": "0x", "blockNumber": hex(number),
        "blockHash": "0x" + digest(number).hex(), "transactionHash": "0x" + "11" * 32, "transactionIndex": "0x0",
        "logIndex": hex(index), "removed": False,
    } | other  # fmt: skip


@pytest.mark.parametrize(
    "extra",
    [
        entry(98, 1, removed=True),
        entry(98, 0),
        entry(98, 1, blockHash="0x" + digest(98, "b").hex()),
        entry(101, 0),
        entry(98, 1, address="0x" + "77" * 20),
        entry(98, 1, blockHash=None),
    ],
    ids=["removed", "twice", "of another fork", "of another block", "of another contract", "pending"],
)
def test_s22_core(extra: dict[str, object]) -> None:
    assert len(wire.logs([entry(99, 0), entry(98, 0)], 97, 100, WATCHED)) == 2
    with pytest.raises(InconsistentResponseError):
        wire.logs([entry(98, 0), extra], 97, 100, WATCHED)
