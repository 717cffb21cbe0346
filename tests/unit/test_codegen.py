"""Compiled decoders against eth-abi: for random events and values, and for data somebody has tampered with."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from eth_abi.abi import encode
from eth_abi.grammar import parse
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.decode.abi import MAX_UNUSUAL, EventAbi, load_abi
from indexer.errors import DecodeMismatchError
from indexer.runtime.resources import data_dir

INLINE = [f"{s}int{8 * n}" for s in ("u", "") for n in (1, 2, 8, 16, 31, 32)]
INLINE += ["bool", "address", "bytes1", "bytes4", "bytes31", "bytes32"]


class Kind(NamedTuple):
    """A type: as an ABI entry has it, as eth-abi takes it, and its values."""

    entry: dict[str, Any]
    canonical: str
    values: st.SearchStrategy[Any]


def elementary(kind: str) -> Kind:
    if kind in ("bytes", "string"):
        values: st.SearchStrategy[Any] = st.binary(max_size=70) if kind == "bytes" else st.text(max_size=40)
    elif kind.startswith("uint"):
        values = st.integers(0, 2 ** int(kind[4:]) - 1)
    elif kind.startswith("int"):
        bits = int(kind[3:])
        values = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    elif kind == "bool":
        values = st.booleans()
    else:
        size = 20 if kind == "address" else int(kind[5:])
        values = st.binary(min_size=size, max_size=size)
    return Kind({"type": kind}, kind, values)


def array(kind: Kind, size: int | None) -> Kind:
    suffix = "[]" if size is None else f"[{size}]"
    values = st.lists(kind.values, min_size=size or 0, max_size=3 if size is None else size)
    return Kind(kind.entry | {"type": kind.entry["type"] + suffix}, kind.canonical + suffix, values)


def tuple_of(kinds: list[Kind]) -> Kind:
    parts = [kind.entry | {"name": f"f{n}"} for n, kind in enumerate(kinds)]
    canonical = f"({','.join(kind.canonical for kind in kinds)})"
    return Kind({"type": "tuple", "components": parts}, canonical, st.tuples(*(kind.values for kind in kinds)))


kinds = st.recursive(
    st.sampled_from([*INLINE, "bytes", "string"]).map(elementary),
    lambda inner: (
        st.builds(array, inner, st.none() | st.integers(1, 3)) | st.lists(inner, min_size=1, max_size=3).map(tuple_of)
    ),
    max_leaves=5,
)


@st.composite
def events(draw: st.DrawFn) -> tuple[dict[str, Any], list[bytes], bytes]:
    """An event's ABI entry with a log of it."""
    inputs: list[dict[str, Any]] = []
    topics, types, given_values = [b"\0" * 32], [], []
    for i in range(draw(st.integers(1, 5))):
        if draw(st.booleans()) and len(topics) < 4:
            kind = elementary(draw(st.sampled_from(INLINE)))
            inputs.append({"name": f"a{i}", "indexed": True} | kind.entry)
            topics.append(encode([kind.canonical], [draw(kind.values)]))
        else:
            kind = draw(kinds)
            inputs.append({"name": f"a{i}"} | kind.entry)
            types.append(kind.canonical)
            given_values.append(draw(kind.values))
    return {"type": "event", "name": "E", "inputs": inputs}, topics, encode(types, given_values)


def loaded(entry: dict[str, Any], folder: Path) -> EventAbi:
    path = folder / "abi.json"
    path.write_text(json.dumps([entry]))
    (event,) = load_abi(path)
    return event


def both(event: EventAbi, topics: list[bytes], data: bytes) -> None:
    """The same arguments, or both refuse with the same words; what the compiled one takes alone is right as well."""
    assert event._compiled is not None
    try:
        expected: Any = event.decode_by_reference(topics, data)
    except DecodeMismatchError as refusal:
        assert event._compiled(topics, data) is None
        with pytest.raises(DecodeMismatchError) as ours:
            event.decode(topics, data)
        assert str(ours.value) == str(refusal)
        return
    assert event.decode(topics, data) == expected
    assert event._compiled(topics, data) in (None, expected)


@settings(max_examples=400, deadline=None)
@given(events(), st.randoms(use_true_random=False))
def test_compiled_and_reference_agree_on_random_events_and_on_tampered_data(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[dict[str, Any], list[bytes], bytes], rng: random.Random
) -> None:
    entry, topics, data = made
    event = loaded(entry, tmp_path_factory.getbasetemp())
    # The standard encoding never needs the reference.
    assert event._compiled is not None and event._compiled(topics, data) is not None
    both(event, topics, data)
    for _ in range(6 if data else 0):
        at, word = rng.randrange(len(data)), 32 * rng.randrange(-(-len(data) // 32))
        other = rng.choice([0, 1, 31, 32, 33, 64, len(data), 2**31, 2**64, 2**255, 2**256 - 1])
        moved = int.from_bytes(data[word : word + 32]) + rng.choice([-64, -32, -1, 1, 32, 64])
        both(event, topics, data[:at])
        both(event, topics, data[:at] + rng.randbytes(1) + data[at + 1 :])
        both(event, topics, data[:word] + other.to_bytes(32) + data[word + 32 :])
        both(event, topics, data[:word] + (moved % 2**256).to_bytes(32) + data[word + 32 :])
        both(event, topics, data + rng.randbytes(rng.randrange(70)))
        both(event, topics, data[:word] + data[word + 32 :])
    if len(topics) > 1:
        at = rng.randrange(32)
        both(event, [topics[0], topics[1][:at] + rng.randbytes(1) + topics[1][at + 1 :], *topics[2:]], data)


def test_every_shipped_event_is_compiled() -> None:
    for path in sorted(data_dir("abis").glob("*.json")):
        for event in load_abi(path):
            assert event._compiled is not None, event.signature


@pytest.mark.parametrize("kind", ["uint256[]", "bytes[]", "string[][2][]", "tuple[]", "uint8[][]"])
def test_a_length_is_not_believed_before_the_data_has_room_for_it(kind: str, tmp_path: Path) -> None:
    parts = {"components": [{"name": "x", "type": "uint8"}]} if "tuple" in kind else {}
    event = loaded({"type": "event", "name": "E", "inputs": [{"name": "a", "type": kind} | parts]}, tmp_path)
    for length in (2**20, 2**63, 2**256 - 1):
        data = b"".join(n.to_bytes(32) for n in (32, length, 32, 32))
        assert event._compiled is not None and event._compiled([b""], data) is None
        with pytest.raises(DecodeMismatchError):
            event.decode([b"\0" * 32], data)


def test_offsets_that_share_a_tail_are_bounded(tmp_path: Path) -> None:
    """A thousand entries of one long text: the log is small, what it stands for is not."""
    event = loaded({"type": "event", "name": "E", "inputs": [{"name": "a", "type": "bytes[]"}]}, tmp_path)

    def shared(entries: int, size: int) -> bytes:
        words = [32, entries, *([32 * entries] * entries), size]
        return b"".join(n.to_bytes(32) for n in words) + b"\7" * size

    few = event.decode([b"\0" * 32], shared(3, 320))
    assert few == {"a": [b"\7" * 320] * 3}
    with pytest.raises(DecodeMismatchError, match="not the standard encoding"):
        event.decode([b"\0" * 32], shared(1500, MAX_UNUSUAL))


WRONG = ["uint", "int", "uint7", "uint264", "bytes0", "bytes33", "address[0]", "uint8[-1]", "uint8[", "tuple", "",
         "uint8[01]", "mapping", "bool2", "byte", "uint256[][0]", "fixed", "Uint8", "uint8 "]  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_type_is_refused_with_the_argument_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="argument 0"):
        loaded({"type": "event", "name": "E", "inputs": [{"name": "a", "type": kind}]}, tmp_path)


@settings(max_examples=100, deadline=None)
@given(kinds)
def test_types_are_those_of_the_reference(tmp_path_factory: pytest.TempPathFactory, kind: Kind) -> None:
    parse(kind.canonical).validate()
    event = loaded({"type": "event", "name": "E", "inputs": [{"name": "a"} | kind.entry]},
                   tmp_path_factory.getbasetemp())  # fmt: skip
    assert event.signature == f"E({kind.canonical})"
