"""Block times from events: where they stand, when they are believed, and what a wrong one costs."""

from __future__ import annotations

from typing import Any

from eth_abi.abi import encode

from indexer.chain.types import Header, Log
from indexer.config import load
from indexer.decode.stamps import FIELD, stamps_of, times
from indexer.ingest.fetch import PROBES, fetch_plain

REYA = load("reya")
STAMPS = stamps_of(REYA.contracts)


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
            assert times([log], STAMPS) == {5: 1_700_000_123}, event.signature
            assert times([log._replace(data=data[:at])], STAMPS) == {}
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
    """Serves logs without times, and headers; counts the headers."""

    name = "node"

    def __init__(self, logs: list[Log], clock: dict[int, int]) -> None:
        self.logs, self.clock, self.asked = logs, clock, 0

    def header(self, number: int) -> Header:
        return Header(number, b"%32d" % number, b"%32d" % (number - 1), self.clock[number])

    async def logs_with_headers(
        self, first: int, last: int, addresses: object, numbers: Any, beside: Any = ()
    ) -> tuple[list[Log], list[Header]]:
        return self.logs, [self.header(n) for n in numbers]

    async def headers(self, numbers: Any) -> list[Header]:
        self.asked += len(numbers)
        return [self.header(n) for n in numbers]


def _log(number: int, time: int | None) -> Log:
    core = next(c for c in REYA.contracts if c.name == "core")
    event = next(e for e in core.events if e.name == "Deposited")
    data = b"" if time is None else encode(["uint256", "uint256"], [1, time])
    topic = event.topic0 if time is not None else b"\1" * 32
    return Log(number, 0, bytes.fromhex(core.address[2:]), b"", 0, (topic,), data, b"%32d" % number)


async def _fetched(told: dict[int, int | None], clock: dict[int, int]) -> tuple[dict[int, int], int]:
    node: Any = _Node([_log(n, time) for n, time in told.items()], clock)
    unit = await fetch_plain(node, 0, 100, [c.address for c in REYA.contracts], None, STAMPS)
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
