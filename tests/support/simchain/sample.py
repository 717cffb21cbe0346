"""A small tree with a fork, for the tests of the simulated chain itself."""

from __future__ import annotations

from typing import Any

from eth_hash.auto import keccak

from tests.support.simchain.chain import SimLog, SimTx, Tree

ADDRESS = "0x" + "a1" * 20
OTHER = "0x" + "b2" * 20
EVERY = [(n, i) for n in (1, 3, 5, 7, 9) for i in (0, 1)]  # block and log index on the main chain


def log(address: str = ADDRESS, word: int = 1) -> SimLog:
    return SimLog(address, (b"\x77" * 32,), word.to_bytes(32, "big"))


def tx(name: str, *logs: SimLog, kind: int = 2) -> SimTx:
    return SimTx(keccak(name.encode()), logs or (log(),), kind)


class Chain:
    """Genesis, then blocks 1..10: one transaction with two logs in each odd one. A fork of 8 in the place of 8."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.main = [self.tree.genesis]
        for n in range(1, 11):
            txs = [tx(f"t{n}", log(word=n), log(OTHER, n))] if n % 2 else []
            self.main.append(self.tree.extend(self.main[-1].hash, txs))
        self.tip = self.main[-1].hash
        self.side = [*self.main[:8], self.tree.extend(self.main[7].hash, [tx("t9", log(word=99))], salt=b"side")]
        self.side_tip = self.side[-1].hash


def places(logs: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(int(g["blockNumber"], 16), int(g["logIndex"], 16)) for g in logs]
