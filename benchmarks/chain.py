"""A chain for benchmarks, deterministic by its seed: what the exchange emits, in the mix that it emits it.

    python -m benchmarks.chain --out chain.jsonl [--blocks 20000] [--logs 100000] [--seed 1729]

More than half are orders, the rest token transfers, deposits, withdrawals, accounts and liquidation bids of the
addresses in config/reya.toml, in transactions of one to six logs on random blocks. Headers hash, blooms and receipts
roots are real. The file is what tests/support/simchain/fast.py serves.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from eth_hash.auto import keccak

from tests.support.anvil.emission import Abis, canonical
from tests.support.simchain.chain import Block, SimLog, SimTx, Tree
from tests.support.simchain.recording import line_of

CHAIN_ID = 1729
MIX = {
    "PassivePerpMatchOrder": 55,
    "Transfer": 15,
    "Deposited": 5,
    "Withdrawn": 5,
    "TransferBetweenMarginAccounts": 5,
    "AccountOwnerUpdated": 5,
    "AccountCreated": 5,
    "AccountExecutedLiquidationBid": 5,
}  # per cent
CONTRACTS = {"PassivePerpMatchOrder": "passive_perp", "Transfer": "rusd"}  # the others are the core's
WALLETS, COLLATERALS, MARKETS = 3_000, 7, 84
SIZES = (1, 1, 2, 2, 3, 4, 6)  # logs of a transaction
E6, E18 = 10**6, 10**18
_SIGN = 1 << 256

Args = dict[str, Any]


def word(value: int) -> bytes:
    """32 bytes; negative values in two's complement."""
    return (value % _SIGN).to_bytes(32, "big")


def words(*values: int) -> bytes:
    return b"".join(map(word, values))


def blob(value: bytes) -> bytes:
    """The tail of a `bytes`."""
    return word(len(value)) + value + bytes(-len(value) % 32)


def signature(entry: Args) -> str:
    return f"{entry['name']}({','.join(canonical(i) for i in entry['inputs'])})"


def entry_of(abis: Abis, event: str) -> Args:
    """The ABI of an event of the mix: of two of one name the longer."""
    return max(abis.events[CONTRACTS.get(event, "core"), event], key=lambda entry: len(signature(entry)))


def abi_of(abis: Abis, event: str) -> tuple[str, bytes]:
    """Address and topic0 of an event of the mix."""
    return abis.addresses[CONTRACTS.get(event, "core")], keccak(signature(entry_of(abis, event)).encode())


class Traffic:
    """Draws events and encodes them by hand: an ABI library would take minutes for a million."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        abis = Abis("reya")
        self._shape = {event: abi_of(abis, event) for event in MIX}
        self.rusd = int(abis.addresses["rusd"], 16)
        self.wallets = [rng.getrandbits(160) for _ in range(WALLETS)]
        self.collaterals = [self.rusd, *(rng.getrandbits(160) for _ in range(COLLATERALS - 1))]
        self.accounts = 0

    def transaction(self, kinds: Sequence[str], timestamp: int) -> list[SimLog]:
        """The logs of a transaction. In one with a liquidation bid half of the orders are the liquidated account's."""
        focus = self.account() if "AccountExecutedLiquidationBid" in kinds else 0
        logs = []
        for kind in kinds:
            indexed, data = getattr(self, kind)(timestamp, focus)
            address, topic0 = self._shape[kind]
            logs.append(SimLog(address, (topic0, *map(word, indexed)), data))
        return logs

    def account(self) -> int:
        return self.rng.randrange(1, max(2, self.accounts + 1))

    def wallet(self) -> int:
        return self.rng.choice(self.wallets)

    def PassivePerpMatchOrder(self, timestamp: int, focus: int) -> tuple[tuple[int, ...], bytes]:
        rng = self.rng
        account = focus if focus and rng.random() < 0.5 else self.account()
        base = rng.randrange(10**14, 50 * E18) * rng.choice((1, -1))
        fee, referred = rng.randrange(500 * E6), rng.random() < 0.2
        payments = [rng.randrange(-100 * E6, 100 * E6) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        head = (base, 5 * 32, rng.randrange(E18 // 10, 110_000 * E18), self.account() if referred else 0, timestamp)
        fees = (fee * 6 // 10, fee * 3 // 10, fee, 5 * 32, fee // 10 if referred else 0, len(payments), *payments)
        return (rng.randrange(1, MARKETS + 1), account), words(*head, *fees)

    def Transfer(self, timestamp: int, focus: int) -> tuple[tuple[int, ...], bytes]:
        kind = self.rng.random()  # one in twenty is a mint, one in twenty a burn
        sides = (0 if kind < 0.05 else self.wallet(), 0 if kind > 0.95 else self.wallet())
        return sides, word(self.rng.randrange(1, 10**6 * E6))

    def Deposited(self, timestamp: int, focus: int) -> tuple[tuple[int, ...], bytes]:
        indexed = (self.account(), self.rng.choice(self.collaterals), self.wallet())
        return indexed, words(self.rng.randrange(1, 10**5 * E18), timestamp)

    Withdrawn = Deposited

    def TransferBetweenMarginAccounts(self, timestamp: int, focus: int) -> tuple[tuple[int, ...], bytes]:
        indexed = (self.account(), self.rng.choice(self.collaterals), self.wallet())
        return indexed, words(self.account(), self.rng.randrange(1, 10**5 * E18), timestamp)

    def AccountOwnerUpdated(self, timestamp: int, focus: int) -> tuple[tuple[int, ...], bytes]:
        return (self.account(), self.wallet()), word(timestamp)

    def AccountCreated(self, timestamp: int, focus: int) -> tuple[tuple[int, ...], bytes]:
        self.accounts += 1
        return (self.accounts, self.wallet(), self.wallet()), word(timestamp)

    def AccountExecutedLiquidationBid(self, timestamp: int, focus: int) -> tuple[tuple[int, ...], bytes]:
        rng, count = self.rng, self.rng.choice((1, 1, 2, 3))
        markets = [rng.randrange(1, MARKETS + 1) for _ in range(count)]
        inputs = [blob(rng.randbytes(rng.choice((32, 64, 96)))) for _ in range(count)]
        # Behind the bid's six head words: the markets, then the inputs, whose offsets count from behind their length.
        at, offsets = 32 * count, []
        for one in inputs:
            offsets.append(at)
            at += len(one)
        bid = words(self.account(), 0, rng.randrange(E18), self.rusd, 6 * 32, (7 + count) * 32, count, *markets, count)
        head = words(4 * 32, rng.random() < 0.8, rng.randrange(1, 20), timestamp)
        return (focus,), head + bid + words(*offsets) + b"".join(inputs)


def blocks(count: int, logs: int, seed: int) -> Iterator[Block]:
    """Genesis and `count` blocks on it with so many logs in all. Memory: one block, and a few bytes a log."""
    rng, tree = random.Random(seed), Tree()
    groups = _groups(rng, logs)
    places = sorted(rng.randrange(1, count + 1) for _ in groups)
    traffic, at, block = Traffic(rng), 0, tree.genesis
    yield block
    for number in range(1, count + 1):
        txs, timestamp = [], tree.next_timestamp(block)
        while at < len(places) and places[at] == number:
            made = traffic.transaction(groups[at], timestamp)
            txs.append(SimTx(keccak(b"%d transaction %d" % (seed, at)), made))
            at += 1
        parent, block = block, tree.extend(block.hash, txs)
        # The tree keeps what a follower may be led back to; nobody is here.
        del tree.blocks[parent.hash]
        tree.of_tx.clear()
        yield block


def _groups(rng: random.Random, logs: int) -> list[list[str]]:
    """The kinds of each transaction's logs."""
    kinds = [kind for kind, share in MIX.items() for _ in range(round(logs * share / 100))]
    kinds = kinds[:logs] + ["PassivePerpMatchOrder"] * (logs - len(kinds))
    rng.shuffle(kinds)
    created = kinds.index("AccountCreated")  # the first of all: the others name accounts
    kinds[0], kinds[created] = kinds[created], kinds[0]
    groups, at = [], 0
    while at < len(kinds):
        size = rng.choice(SIZES)
        groups.append(kinds[at : at + size])
        at += size
    return groups


def write(path: Path, count: int, logs: int, seed: int, say: Callable[[int], None] = lambda number: None) -> None:
    """Writes a chain file, or nothing at all."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.write(orjson.dumps({"chain_id": CHAIN_ID, "head": count, "logs": logs, "seed": seed}) + b"\n")
        for block in blocks(count, logs, seed):
            file.write(line_of(block))
            say(block.number)
    unfinished.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a chain for benchmarks.")
    parser.add_argument("--out", type=Path, default=Path("chain.jsonl"))
    parser.add_argument("--blocks", type=int, default=20_000, help="the number of the head")
    parser.add_argument("--logs", type=int, default=100_000, help="at least 20")
    parser.add_argument("--seed", type=int, default=1729)
    given = parser.parse_args()
    write(given.out, given.blocks, given.logs, given.seed)


if __name__ == "__main__":
    main()
