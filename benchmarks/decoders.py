"""The program's own decoders against eth-abi, on logs of a benchmark chain.

    python -m benchmarks.decoders [--logs 4000] [--rounds 5]

Both decode the same logs to the same values, in turn; the medians of the rounds are compared. Exit code 1 when the
limit is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.chain import MIX, abi_of, blocks
from benchmarks.figures import Figure, report
from indexer import config
from indexer.decode.abi import EventAbi
from indexer.decode.registry import Registry
from tests.support.anvil.emission import Abis

AT_LEAST = 12.0
MATCH, BID = "PassivePerpMatchOrder", "AccountExecutedLiquidationBid"


class Case(NamedTuple):
    abi: EventAbi
    topics: tuple[bytes, ...]
    data: bytes


def cases(logs: int) -> list[Case]:
    """The logs of a small chain, each with its decoder."""
    registry = Registry(config.load("reya").contracts)
    found = []
    for block in blocks(max(2, logs // 5), logs, seed=1):
        for _, _, _, log in block:
            abi = registry.find(log.address, log.topics[0])
            assert abi is not None
            found.append(Case(abi, log.topics, log.data))
    return found


def timed(some: Sequence[Case], decode: Callable[[EventAbi, Sequence[bytes], bytes], Any]) -> float:
    """Microseconds a log."""
    started = time.perf_counter()
    for abi, topics, data in some:
        decode(abi, topics, data)
    return (time.perf_counter() - started) / len(some) * 1e6


def compare(name: str, some: Sequence[Case], rounds: int, limit: float | None) -> Figure:
    for case in some:
        assert case.abi.decode(case.topics, case.data) == case.abi.decode_by_reference(case.topics, case.data)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timed(some, EventAbi.decode))
        theirs.append(timed(some, EventAbi.decode_by_reference))
    mine, reference = statistics.median(ours), statistics.median(theirs)
    note = f"{mine:.2f} against {reference:.1f} microseconds"
    numbers = {"microseconds": mine, "eth_abi_microseconds": reference, "logs": len(some)}
    return Figure(f"decoder against eth-abi, {name}", reference / mine, "x", limit, note=note, numbers=numbers)


def measure(logs: int = 4_000, rounds: int = 5) -> list[Figure]:
    every, abis = cases(logs), Abis("reya")
    topic0 = {event: abi_of(abis, event)[1] for event in MIX}

    def of(event: str) -> list[Case]:
        return [case for case in every if case.topics[0] == topic0[event]]

    return [
        compare(MATCH, of(MATCH), rounds, AT_LEAST),
        compare(BID, of(BID), rounds, None),
        compare("the mix", every, rounds, None),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Decoders against eth-abi.")
    parser.add_argument("--logs", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    figures = measure(given.logs, given.rounds)
    print(report(figures))
    sys.exit(not all(figure.ok for figure in figures))


if __name__ == "__main__":
    main()
