"""A tree of blocks: every fork that ever was, with the header hashes, blooms and receipts roots of a real chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eth_hash.auto import keccak

from tests.support.simchain.encoding import EMPTY_BLOOM, EMPTY_ROOT, EMPTY_UNCLES, Rlp, bloom, list_root, receipt, rlp

GENESIS_TIME = 1_740_000_000
GAS_LIMIT, BASE_FEE = 1 << 50, 10_000_000
BLOCKS_PER_SECOND = 4
ZERO = bytes(32)
_NOBODY = bytes(20)
_MIX = bytes(31) + b"\x0b"


@dataclass(frozen=True, slots=True)
class SimLog:
    """`address` in lower-case 0x hex; at most four topics of 32 bytes."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class SimTx:
    """One transaction's outcome. Another fork may hold the same hash elsewhere and with other logs.

    `kind` is the receipt's type byte, 0 for the legacy form. A failed one (`status` 0) has no logs.
    """

    hash: bytes
    logs: Sequence[SimLog] = ()
    kind: int = 2
    status: int = 1

    @property
    def gas(self) -> int:
        return 21_000 + 1_000 * len(self.logs)

    def bloom(self) -> bytes:
        return bloom(v for g in self.logs for v in (bytes.fromhex(g.address[2:]), *g.topics))


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A block of the tree; `timestamp` in seconds."""

    number: int
    hash: bytes
    parent: bytes
    timestamp: int
    txs: tuple[SimTx, ...]
    logs_bloom: bytes
    receipts_root: bytes
    transactions_root: bytes
    extra: bytes
    gas_used: int

    @property
    def hex(self) -> str:
        return "0x" + self.hash.hex()

    def __iter__(self) -> Iterator[tuple[int, int, SimTx, SimLog]]:
        """Log index, transaction index, transaction, log; in chain order."""
        index = 0
        for position, tx in enumerate(self.txs):
            for log in tx.logs:
                yield index, position, tx, log
                index += 1

    def header(self) -> dict[str, Any]:
        """The block object of JSON-RPC, with the hashes of its transactions. Its fields hash to its hash."""
        return {
            "number": hex(self.number),
            "hash": self.hex,
            "parentHash": "0x" + self.parent.hex(),
            "sha3Uncles": "0x" + EMPTY_UNCLES.hex(),
            "miner": "0x" + _NOBODY.hex(),
            "stateRoot": "0x" + ZERO.hex(),
            "transactionsRoot": "0x" + self.transactions_root.hex(),
            "receiptsRoot": "0x" + self.receipts_root.hex(),
            "logsBloom": "0x" + self.logs_bloom.hex(),
            "difficulty": "0x1",
            "gasLimit": hex(GAS_LIMIT),
            "gasUsed": hex(self.gas_used),
            "timestamp": hex(self.timestamp),
            "extraData": "0x" + self.extra.hex(),
            "mixHash": "0x" + _MIX.hex(),
            "nonce": "0x" + bytes(8).hex(),
            "baseFeePerGas": hex(BASE_FEE),
            "l1BlockNumber": "0xb",
            "size": "0x220",
            "uncles": [],
            "transactions": ["0x" + tx.hash.hex() for tx in self.txs],
        }

    def logs(self) -> list[dict[str, Any]]:
        """All its logs as eth_getLogs gives them."""
        if not self.txs:
            return []
        number, block_hash, timestamp = hex(self.number), self.hex, hex(self.timestamp)
        return [
            {
                "address": log.address,
                "topics": ["0x" + t.hex() for t in log.topics],
                "data": "0x" + log.data.hex(),
                "blockNumber": number,
                "blockHash": block_hash,
                "blockTimestamp": timestamp,
                "transactionHash": "0x" + tx.hash.hex(),
                "transactionIndex": hex(position),
                "logIndex": hex(index),
                "removed": False,
            }
            for index, position, tx, log in self
        ]

    def receipts(self) -> list[dict[str, Any]]:
        """All its receipts as eth_getBlockReceipts gives them."""
        by_tx: dict[int, list[dict[str, Any]]] = {}
        for log in self.logs():
            by_tx.setdefault(int(log["transactionIndex"], 16), []).append(log)
        gas, found = 0, []
        for position, tx in enumerate(self.txs):
            gas += tx.gas
            found.append(
                {
                    "blockHash": self.hex,
                    "blockNumber": hex(self.number),
                    "transactionHash": "0x" + tx.hash.hex(),
                    "transactionIndex": hex(position),
                    "type": hex(tx.kind),
                    "status": hex(tx.status),
                    "cumulativeGasUsed": hex(gas),
                    "gasUsed": hex(tx.gas),
                    "effectiveGasPrice": hex(BASE_FEE),
                    "logsBloom": "0x" + tx.bloom().hex(),
                    "logs": by_tx.get(position, []),
                    "from": "0x" + _NOBODY.hex(),
                    "to": "0x" + _NOBODY.hex(),
                    "contractAddress": None,
                }
            )
        return found


class Tree:
    """Blocks by hash. Nothing is ever removed: which of them are canonical is each node's own view."""

    def __init__(
        self, *, genesis_time: int = GENESIS_TIME, salt: bytes = b"", genesis_hash: bytes | None = None
    ) -> None:
        self.blocks: dict[bytes, Block] = {}
        self.of_tx: dict[bytes, list[Block]] = {}
        self.companions: dict[str, Any] = {}  # what others keep about this tree
        self.genesis = self._add(0, ZERO, (), genesis_time, salt, genesis_hash)

    def __getitem__(self, block_hash: bytes) -> Block:
        return self.blocks[block_hash]

    def __contains__(self, block_hash: object) -> bool:
        return block_hash in self.blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def extend(
        self,
        parent_hash: bytes,
        txs: Iterable[SimTx] = (),
        *,
        timestamp: int | None = None,
        salt: bytes = b"",
        block_hash: bytes | None = None,
    ) -> Block:
        """A child of the parent. Equal content and `salt` give the block that is there already.

        `timestamp` in seconds, by default four blocks a second. `block_hash`: a hash of a recorded chain, which the
        header's fields then do not give. Raises ValueError when time runs backwards or a transaction comes twice.
        """
        parent = self.blocks[parent_hash]
        stamp = self.next_timestamp(parent) if timestamp is None else timestamp
        if stamp < parent.timestamp:
            raise ValueError(f"block {parent.number + 1} at {stamp} is older than its parent at {parent.timestamp}")
        return self._add(parent.number + 1, parent_hash, tuple(txs), stamp, salt, block_hash)

    def grow(self, parent_hash: bytes, blocks: int, *, salt: bytes = b"") -> Block:
        """So many empty blocks on the parent; the last of them."""
        for _ in range(blocks):
            parent_hash = self.extend(parent_hash, salt=salt).hash
        return self.blocks[parent_hash]

    def next_timestamp(self, parent: Block) -> int:
        return max(parent.timestamp, self.genesis.timestamp + (parent.number + 1) // BLOCKS_PER_SECOND)

    def _add(
        self, number: int, parent: bytes, txs: tuple[SimTx, ...], timestamp: int, salt: bytes, told: bytes | None
    ) -> Block:  # fmt: skip
        extra = salt if len(salt) <= 32 else keccak(salt)
        logs_bloom, receipts_root, transactions_root, gas = _roots(txs)
        fields: list[Rlp] = [
            parent, EMPTY_UNCLES, _NOBODY, ZERO, transactions_root, receipts_root, logs_bloom, 1, number, GAS_LIMIT,
            gas, timestamp, extra, _MIX, bytes(8), BASE_FEE,
        ]  # fmt: skip
        found = told or keccak(rlp(fields))
        if found not in self.blocks:
            block = Block(
                number, found, parent, timestamp, txs, logs_bloom, receipts_root, transactions_root, extra, gas
            )  # fmt: skip
            self.blocks[found] = block
            for tx in txs:
                self.of_tx.setdefault(tx.hash, []).append(block)
        return self.blocks[found]

    def path(self, block_hash: bytes) -> list[Block]:
        """The chain that ends with this block, from genesis: index is number."""
        block = self.blocks[block_hash]
        found = [block]
        while block.number:
            block = self.blocks[block.parent]
            found.append(block)
        return found[::-1]

    def ancestor(self, block_hash: bytes, number: int) -> Block:
        """The block of this number on the chain that ends with `block_hash`."""
        block = self.blocks[block_hash]
        while block.number > number:
            block = self.blocks[block.parent]
        if block.number != number:
            raise ValueError(f"block {number} is above {block.number}")
        return block

    def fork_point(self, one: bytes, other: bytes) -> Block:
        """The newest block that both chains hold."""
        a, b = self.blocks[one], self.blocks[other]
        while a.hash != b.hash:
            if a.number >= b.number:
                a = self.blocks[a.parent]
            else:
                b = self.blocks[b.parent]
        return a

    def logs(self, block_hash: bytes, first: int = 0) -> list[dict[str, Any]]:
        """Every log of the chain that ends here, from block `first` on, as eth_getLogs gives them, in order."""
        return [log for block in self.path(block_hash)[first:] if block.txs for log in block.logs()]


def _roots(txs: tuple[SimTx, ...]) -> tuple[bytes, bytes, bytes, int]:
    """Bloom, receipts root, transactions root, gas used."""
    if not txs:
        return EMPTY_BLOOM, EMPTY_ROOT, EMPTY_ROOT, 0
    if len({tx.hash for tx in txs}) < len(txs):
        raise ValueError("one transaction twice in a block")
    bits, gas, encoded = 0, 0, []
    for tx in txs:
        if tx.logs and not tx.status:
            raise ValueError(f"transaction 0x{tx.hash.hex()} failed and has logs")
        gas += tx.gas
        own = tx.bloom()
        bits |= int.from_bytes(own, "big")
        logs = [(bytes.fromhex(g.address[2:]), g.topics, g.data) for g in tx.logs]
        encoded.append(receipt(tx.kind, tx.status, gas, own, logs))
    # A transaction's hash is all that is known of it here: it stands for its bytes.
    return bits.to_bytes(256, "big"), list_root(encoded), list_root([tx.hash for tx in txs]), gas
