"""Block times from events: where they stand, when they are believed, and what a wrong one costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from eth_abi.abi import encode

from indexer.chain.types import Header, Log
from indexer.config import load
from indexer.decode.block_times import FIELD, block_times, time_fields_of
from indexer.ingest.confirmed_times import PROBES
from indexer.ingest.fetch import fetch_final

REYA = load("reya")
STAMPS = time_fields_of(REYA.contracts)


def test_the_time_stands_where_the_reference_encoder_puts_it() -> None:
    seen = 0
    for contract in REYA.contracts:
        for event in contract.events:
            at = STAMPS.get(bytes.fromhex(contract.address[2:]) + event.topic0)
            plain = [p for p in event.params if not p.indexed]
            if at is None:
                assert not contract.stamps or all(p.name != FIELD for p in plain), event.signature
                continue
            position = [p.name for p in plain].index(FIELD)
            values = [_zero(p.type) for p in plain]
            values[position] = 1_700_000_123
            data = encode([p.type for p in plain], values)
            log = Log(5, 0, bytes.fromhex(contract.address[2:]), b"", 0, (event.topic0,), data, b"h")
            assert block_times([log], STAMPS) == {5: 1_700_000_123}, event.signature
            assert block_times([log._replace(data=data[:at])], STAMPS) == {}
            seen += 1
    assert seen > 50


def _zero(kind: str) -> Any:
    """The value of a type that is all zeros or empty."""
    if kind.endswith("[]"):
        return []
    if kind.startswith("("):
        depth, parts, start = 0, [], 1
        for i, character in enumerate(kind):
            depth += (character in "([") - (character in ")]")
            if (character == "," and depth == 1) or (character == ")" and depth == 0):
                parts.append(kind[start:i])
                start = i + 1
        return tuple(_zero(part) for part in parts)
    if kind.startswith("bytes"):
        return b"\0" * int(kind[5:] or 0)
    return {"string": "", "bool": False, "address": "0x" + "0" * 40}.get(kind, 0)


class _Node:
    """Serves logs and headers; counts the headers that are asked for apart."""

    name = "node"

    def __init__(self, logs: list[Log], clock: dict[int, int]) -> None:
        self.logs, self.clock, self.asked = logs, clock, 0

    def header(self, number: int) -> Header:
        return Header(number, b"%32d" % number, b"%32d" % (number - 1), self.clock[number])

    async def logs_with_headers(
        self, first: int, last: int, addresses: object, numbers: Any, extra_blocks: Any = (), **_: bool
    ) -> tuple[list[Log], list[Header]]:
        return self.logs, [self.header(n) for n in numbers]

    async def headers(self, numbers: Any) -> list[Header]:
        self.asked += len(numbers)
        return [self.header(n) for n in numbers]


def _log(number: int, time: int | None, said: int | None = None) -> Log:
    core = next(c for c in REYA.contracts if c.name == "core")
    event = next(e for e in core.events if e.name == "Deposited")
    data = b"" if time is None else encode(["uint256", "uint256"], [1, time])
    topic = event.topic0 if time is not None else b"\1" * 32
    return Log(number, 0, bytes.fromhex(core.address[2:]), b"", 0, (topic,), data, b"%32d" % number, said)


async def _fetched(
    told: Mapping[int, int | None], clock: dict[int, int], said: dict[int, int] | None = None
) -> tuple[dict[int, int], int]:  # fmt: skip
    """The times that are stored, and how many headers it took. `told` by events, `said` by the node."""
    node: Any = _Node([_log(n, time, (said or {}).get(n)) for n, time in told.items()], clock)
    unit = await fetch_final(node, 0, 100, [c.address for c in REYA.contracts], None, STAMPS)
    return unit.times, node.asked


async def test_told_times_spare_headers_but_for_some_that_are_compared() -> None:
    clock = {n: 1000 + n // 3 for n in range(101)}
    found, asked = await _fetched({n: clock[n] for n in range(10, 90)}, clock)
    assert found == {n: clock[n] for n in (0, *range(10, 90), 100)} and 1 <= asked <= PROBES + 1


async def test_a_block_whose_events_tell_nothing_is_read() -> None:
    clock = {n: 1000 + n for n in range(101)}
    found, asked = await _fetched({n: clock[n] if n % 2 else None for n in range(10, 90)}, clock)
    assert found[20] == 1020 and found[21] == 1021 and 40 <= asked <= 40 + PROBES + 1


async def test_a_contract_that_tells_wrong_times_is_not_believed() -> None:
    clock = {n: 1000 + n for n in range(101)}
    found, _ = await _fetched({n: clock[n] + 1 for n in range(10, 90)}, clock)
    assert found == {n: clock[n] for n in (0, *range(10, 90), 100)}


async def test_what_the_node_says_confirms_an_event_and_spares_the_comparison() -> None:
    clock = {n: 1000 + n for n in range(101)}
    found, asked = await _fetched({n: clock[n] for n in range(10, 90)}, clock, clock)
    assert found == {n: clock[n] for n in (0, *range(10, 90), 100)} and asked == 0


async def test_what_the_node_says_is_not_believed_where_no_event_tells_a_time() -> None:
    clock = {n: 1000 + n for n in range(101)}
    said = clock | {50: clock[51]}  # in order and within the range
    found, asked = await _fetched(dict.fromkeys(range(10, 90)), clock, said)
    assert found == {n: clock[n] for n in (0, *range(10, 90), 100)} and asked == 80


@pytest.mark.parametrize("wrong", [0, 1049, 1051, 1110, 1050_000])
async def test_where_node_and_event_disagree_the_header_decides(wrong: int) -> None:
    clock = {n: 1000 + n for n in range(101)}
    found, asked = await _fetched({n: clock[n] for n in range(10, 90)}, clock, clock | {50: wrong})
    assert found[50] == 1050 and asked == 1
    found, _ = await _fetched({n: clock[n] if n != 50 else wrong for n in range(10, 90)}, clock, clock)
    assert found == {n: clock[n] for n in (0, *range(10, 90), 100)}


async def test_a_node_that_is_wrong_everywhere_costs_no_more_than_one_that_says_nothing() -> None:
    clock = {n: 1000 + n for n in range(101)}
    found, asked = await _fetched({n: clock[n] for n in range(10, 90)}, clock, dict.fromkeys(clock, 0))
    assert found == {n: clock[n] for n in (0, *range(10, 90), 100)} and asked <= PROBES + 1


async def test_events_whose_times_run_backward_are_not_believed() -> None:
    clock = {n: 1000 + n for n in range(101)}
    told = {n: clock[n] for n in range(10, 90)} | {n: clock[n] - 30 for n in (37, 38)}
    found, asked = await _fetched(told, clock, told)
    assert found == {n: clock[n] for n in (0, *range(10, 90), 100)} and asked == 80
