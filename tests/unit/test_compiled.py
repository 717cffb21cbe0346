"""Compiled decoders against eth-abi: for random events and values, and for data somebody has tampered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.decode.abi import DecodeMismatch, EventAbi, load_abi
from indexer.decode.compiled import compile_event
from indexer.resources import data_dir

KINDS = [f"{s}int{8 * n}" for s in ("u", "") for n in (1, 2, 8, 16, 31, 32)]
KINDS += ["bool", "address", "bytes1", "bytes4", "bytes31", "bytes32", "uint128[2]", "int24[3]", "address[1]"]
DYNAMIC = ["bytes", "string", "int256[]", "uint128[]", "bool[]", "address[]", "bytes4[]"]
INLINE = [k for k in KINDS if "[" not in k]  # indexed, they stand in their topic


def values(kind: str) -> st.SearchStrategy[Any]:
    base, _, count = kind.partition("[")
    if count == "]":
        return st.lists(values(base), max_size=4)
    if kind == "bytes":
        return st.binary(max_size=70)
    if kind == "string":
        return st.text(max_size=40)
    if count:
        size = int(count[:-1])
        return st.lists(values(base), min_size=size, max_size=size)
    if base.startswith("uint"):
        return st.integers(0, 2 ** int(base[4:]) - 1)
    if base.startswith("int"):
        bits = int(base[3:])
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if base == "bool":
        return st.booleans()
    size = 20 if base == "address" else int(base[5:])
    return st.binary(min_size=size, max_size=size)


@st.composite
def events(draw: st.DrawFn) -> tuple[dict[str, Any], list[bytes], bytes]:
    """An event's ABI entry with a log of it."""
    inputs: list[dict[str, Any]] = []
    topics, types, given_values = [b"\0" * 32], [], []
    for i in range(draw(st.integers(1, 6))):
        if draw(st.booleans()) and len(topics) < 4:
            kind = draw(st.sampled_from(INLINE))
            inputs.append({"name": f"a{i}", "type": kind, "indexed": True})
            topics.append(encode([kind], [draw(values(kind))]))
        elif draw(st.booleans()):
            kinds = draw(st.lists(st.sampled_from(KINDS + DYNAMIC), min_size=1, max_size=3))
            parts = [{"name": f"f{n}", "type": k} for n, k in enumerate(kinds)]
            inputs.append({"name": f"a{i}", "type": "tuple", "components": parts})
            types.append(f"({','.join(kinds)})")
            given_values.append(tuple(draw(values(k)) for k in kinds))
        else:
            kind = draw(st.sampled_from(KINDS + DYNAMIC))
            inputs.append({"name": f"a{i}", "type": kind})
            types.append(kind)
            given_values.append(draw(values(kind)))
    return {"type": "event", "name": "E", "inputs": inputs}, topics, encode(types, given_values)


def loaded(entry: dict[str, Any], folder: Path) -> EventAbi:
    path = folder / "abi.json"
    path.write_text(json.dumps([entry]))
    (event,) = load_abi(path)
    return event


def both(event: EventAbi, topics: list[bytes], data: bytes) -> None:
    """The same arguments, or both refuse with the same words."""
    try:
        expected: Any = event.decode_by_reference(topics, data)
    except DecodeMismatch as refusal:
        with pytest.raises(DecodeMismatch) as ours:
            event.decode(topics, data)
        assert str(ours.value) == str(refusal)
        return
    assert event.decode(topics, data) == expected


@settings(max_examples=300, deadline=None)
@given(events(), st.data())
def test_compiled_and_reference_agree_on_random_events_and_on_tampered_data(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[dict[str, Any], list[bytes], bytes], draw: st.DataObject
) -> None:
    entry, topics, data = made
    event = loaded(entry, tmp_path_factory.getbasetemp())
    assert compile_event(event.params) is not None
    assert event._compiled is not None and event._compiled(topics, data) is not None
    both(event, topics, data)
    if data:
        at = draw.draw(st.integers(0, len(data) - 1))
        both(event, topics, data[:at])
        both(event, topics, data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :])
        both(event, topics, data + draw.draw(st.binary(max_size=40)))
    if len(topics) > 1:
        at = draw.draw(st.integers(0, 31))
        word = topics[1][:at] + bytes([draw.draw(st.integers(0, 255))]) + topics[1][at + 1 :]
        both(event, [topics[0], word, *topics[2:]], data)


def test_all_shipped_events_are_compiled_but_those_with_arrays_of_dynamic_types() -> None:
    for path in sorted(data_dir("abis").glob("*.json")):
        for event in load_abi(path):
            nested = any(t in event.signature for t in ("[][]", "bytes[]", "string[]", ")[]"))
            assert (event._compiled is None) == nested, event.signature
