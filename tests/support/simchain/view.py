"""One node's view of the tree, as answers to JSON-RPC calls. No sockets; the knobs are attributes, changed at will."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence, Set
from typing import Any, Literal, NamedTuple

from tests.support.simchain.chain import Block, Tree
from tests.support.simchain.refusals import BLOCKS, LOGS, Provider, Refusal, refuse

Place = tuple[bytes, int]  # block hash and log index
Json = dict[str, Any]


class Depth(NamedTuple):
    """So many blocks below the newest served one, not below genesis."""

    blocks: int


Tag = int | Depth | Literal["null"] | None


NO_RECEIPTS = frozenset({"eth_getBlockReceipts", "eth_getTransactionReceipt"})  # for `missing_methods`
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")


class View:
    """What a node knows and how it misrepresents it. `knobs` describes the attributes."""

    def __init__(self, tree: Tree, head: bytes | None = None, chain_id: int = 31337) -> None:
        self.tree, self.chain_id = tree, chain_id
        self.lock = threading.RLock()
        self._path = [tree.genesis]
        self._orphans: set[bytes] = set()
        self._moved: Callable[[list[Block]], None] = lambda _: None
        self._torn: bytes | None = None
        self._torn_path: list[Block] = []
        self._lag = 0
        self.knobs()
        if head is not None:
            self.head = head

    def knobs(self) -> None:
        """Every knob at its harmless value; the head, the chain id and the hook stay."""
        self.lag = 0  # blocks below the head that are not served yet
        self.finalized: Tag = None  # a number, a Depth, None: refused as unknown, "null": answered with null
        self.safe: Tag = None
        self.log_lag = 0  # the newest served blocks whose logs eth_getLogs does not find yet
        self.omit: set[Place] = set()  # logs that eth_getLogs leaves out
        self.omit_mode: Literal["always", "ranges"] = "always"  # "ranges": only when several blocks are asked for
        self.omit_receipts = False  # also from receipts
        self.patch_receipts: Callable[[list[Json]], Any] | None = None
        self.wrong_index: dict[Place, int] = {}  # log indexes that eth_getLogs makes up
        self.torn = None
        self.torn_disguise = False
        self.pruned_below: int | None = None
        self.pruned_mode: Literal["empty", "error"] = "empty"
        self.removed_entries = 0  # how many logs of an answer come again with removed: true
        self.removed_from: bytes | None = None  # the tip of a fork whose own logs come with removed: true
        self.duplicate_entries = 0  # how many logs of an answer come twice
        self.log_timestamps: Literal["all", "none", "some"] = "all"
        self.beyond_head: Literal["silent", "error"] = "silent"  # a range that ends above the served head
        self.serves_orphans = True  # by hash, blocks that were canonical here once
        self.max_blocks: int | None = None
        self.max_logs: int | None = None
        self.says: Provider = "geth"  # in whose words ranges are refused
        self.missing_methods: Set[str] = frozenset()
        self.patch_header: Callable[[Json], Any] | None = None
        self.patch_logs: Callable[[list[Json]], Any] | None = None
        self.on_request: Callable[[str, list[Any]], None] | None = None  # before each call; may raise Refusal

    # -- which blocks

    @property
    def head(self) -> bytes:
        """The tip of this node's chain; setting it switches forks."""
        return self._path[-1].hash

    @head.setter
    def head(self, block_hash: bytes) -> None:
        with self.lock:
            before = self.top
            orphaned = self._switch(block_hash)
            self._orphans |= {b.hash for b in orphaned}
            self._announce(before, before.number - len(orphaned))

    @property
    def lag(self) -> int:
        return self._lag

    @lag.setter
    def lag(self, blocks: int) -> None:
        with self.lock:
            before, self._lag = self.top, blocks
            self._announce(before, before.number)

    @property
    def torn(self) -> bytes | None:
        """The tip of the chain that logs are taken from, while headers come from `head`. With `torn_disguise` such logs
        carry the block hash of the header of their number."""
        return self._torn

    @torn.setter
    def torn(self, block_hash: bytes | None) -> None:
        with self.lock:
            self._torn = block_hash
            self._torn_path = [] if block_hash is None else self.tree.path(block_hash)

    @property
    def top(self) -> Block:
        """The newest block that is served."""
        return self._path[max(0, len(self._path) - 1 - self._lag)]

    def _switch(self, block_hash: bytes) -> list[Block]:
        """Replaces what differs; the blocks that left."""
        block, path, fresh = self.tree[block_hash], self._path, []
        while block.number >= len(path) or path[block.number] is not block:
            fresh.append(block)
            if not block.number:
                raise ValueError("a head of another tree")
            block = self.tree[block.parent]
        gone = path[block.number + 1 :]
        path[block.number + 1 :] = fresh[::-1]
        return gone

    def _announce(self, before: Block, unchanged: int) -> None:
        """Tells subscribers the blocks served from now on; at most 64, as a node that catches up would."""
        top = self.top
        if top is not before:
            self._moved(self._path[max(min(unchanged, top.number - 1) + 1, top.number - 63) : top.number + 1])

    def at(self, number: int) -> Block | None:
        return self._path[number] if 0 <= number <= self.top.number else None

    def by_hash(self, block_hash: bytes) -> Block | None:
        block = self.tree.blocks.get(block_hash)
        if block is None:
            return None
        if self.at(block.number) is block or (self.serves_orphans and block_hash in self._orphans):
            return block
        return None

    def tagged(self, tag: str) -> Block | None:
        """Raises Refusal like geth for a tag that this node does not have."""
        match tag:
            case "latest" | "pending":
                return self.top
            case "earliest":
                return self._path[0]
            case "safe" | "finalized":
                told = self.safe if tag == "safe" else self.finalized
                if told == "null":
                    return None
                number = max(0, self.top.number - told.blocks) if isinstance(told, Depth) else told
                # A number above the served head is answered: some nodes do finalize what they do not serve.
                if not isinstance(number, int) or number >= len(self._path):
                    raise Refusal(-32000, f"{tag} block not found")
                return self._path[number]
        return self.at(_quantity(tag))

    # -- answers

    def answer(self, method: str, params: list[Any]) -> Any:
        """The result. Raises Refusal."""
        if self.on_request:
            self.on_request(method, params)
        with self.lock:
            handler = getattr(self, f"do_{method}", None)
            if handler is None or method in self.missing_methods:
                raise Refusal(-32601, f"the method {method} does not exist/is not available")
            return handler(*params)

    def do_eth_chainId(self) -> str:
        return hex(self.chain_id)

    def do_net_version(self) -> str:
        return str(self.chain_id)

    def do_web3_clientVersion(self) -> str:
        return "simchain/1.0"

    def do_eth_syncing(self) -> bool:
        return False

    def do_eth_blockNumber(self) -> str:
        return hex(self.top.number)

    def do_eth_getBlockByNumber(self, number: str, full: bool = False) -> Any:
        return self._block(self.tagged(number), full)

    def do_eth_getBlockByHash(self, block_hash: str, full: bool = False) -> Any:
        return self._block(self.by_hash(_hash(block_hash)), full)

    def _block(self, block: Block | None, full: bool) -> Any:
        if block is None:
            return None
        header = block.header()
        if full:
            header["transactions"] = [
                {
                    "hash": "0x" + tx.hash.hex(), "blockHash": block.hex, "blockNumber": header["number"],
                    "transactionIndex": hex(n), "type": hex(tx.kind), "from": header["miner"], "to": header["miner"],
                    "value": "0x0", "input": "0x", "nonce": "0x0", "gas": hex(tx.gas),
                }
                for n, tx in enumerate(block.txs)
            ]  # fmt: skip
        return self.patch_header(header) if self.patch_header else header

    def do_eth_getBlockReceipts(self, block: str) -> Any:
        found = self.by_hash(_hash(block)) if _HASH.fullmatch(block) else self.tagged(block)
        return None if found is None else self._receipts(found)

    def do_eth_getTransactionReceipt(self, tx_hash: str) -> Any:
        for block in self.tree.of_tx.get(_hash(tx_hash), ()):
            if self.at(block.number) is block:
                receipts = self._receipts(block) or []
                return next((r for r in receipts if r["transactionHash"] == tx_hash.lower()), None)
        return None

    def _receipts(self, block: Block) -> list[Json] | None:
        if self.pruned_below is not None and block.number < self.pruned_below:
            if self.pruned_mode == "error":
                raise Refusal(4444, "pruned history unavailable")
            return None
        receipts = block.receipts()
        if self.omit_receipts:
            for receipt in receipts:
                receipt["logs"] = [g for g in receipt["logs"] if (block.hash, int(g["logIndex"], 16)) not in self.omit]
        if self.patch_receipts:
            self.patch_receipts(receipts)
        return receipts

    def do_eth_getLogs(self, asked: Json) -> Any:
        wanted = asked.get("address")
        watched = None if not wanted else {a.lower() for a in ([wanted] if isinstance(wanted, str) else wanted)}
        topics = asked.get("topics") or []
        blocks, first, last = self._asked_for(asked)
        self._check_blocks(first, last)
        found: list[Json] = []
        for block in blocks:
            found += [g for g in self._logs(block, last > first) if _matches(g, watched, topics)]
            if self.max_logs is not None and len(found) > self.max_logs:
                fits = max(first, block.number - 1)
                refuse(LOGS, self.says, cap=self.max_logs, first=first, fits=fits, span=last - first + 1)
        found += [dict(g) for g in found[: self.duplicate_entries]]
        found += [g | {"removed": True} for g in found[: self.removed_entries]]
        found += [g for g in self._removed(first, last) if _matches(g, watched, topics)]
        return self.patch_logs(found) if self.patch_logs else found

    def _asked_for(self, asked: Json) -> tuple[Sequence[Block], int, int]:
        """The blocks of the question that this node looks into, and the numbers it names."""
        if "blockHash" in asked:
            block = self.by_hash(_hash(asked["blockHash"]))
            if block is None:
                raise Refusal(-32000, "unknown block")
            return self._looked_into([block]), block.number, block.number
        first, last = self._limit(asked.get("fromBlock", "latest")), self._limit(asked.get("toBlock", "latest"))
        if first > last:
            raise Refusal(-32602, "invalid block range params")
        if last > self.top.number and self.beyond_head == "error":
            raise Refusal(-32602, "block range extends beyond current head block")
        if self._torn is not None:
            return self._looked_into(self._torn_path[first : last + 1]), first, last
        return self._looked_into(self._path[first : min(last, self.top.number) + 1]), first, last

    def _limit(self, text: str) -> int:
        if text.startswith("0x"):
            return _quantity(text)
        block = self.tagged(text)
        if block is None:
            raise Refusal(-32000, f"{text} block not found")
        return block.number

    def _looked_into(self, blocks: Sequence[Block]) -> Sequence[Block]:
        if self.log_lag:
            blocks = [b for b in blocks if b.number <= self.top.number - self.log_lag]
        if self.pruned_below is not None and any(b.number < self.pruned_below for b in blocks):
            if self.pruned_mode == "error":
                raise Refusal(4444, "pruned history unavailable")
            blocks = [b for b in blocks if b.number >= self.pruned_below]
        return blocks

    def _check_blocks(self, first: int, last: int) -> None:
        if self.max_blocks is not None and last - first + 1 > self.max_blocks:
            fits = first + self.max_blocks - 1
            refuse(BLOCKS, self.says, cap=self.max_blocks, first=first, fits=fits, span=last - first + 1)

    def _logs(self, block: Block, several: bool) -> list[Json]:
        logs = block.logs()
        if not logs:
            return logs
        if self.omit and (several or self.omit_mode == "always"):
            logs = [g for g in logs if (block.hash, int(g["logIndex"], 16)) not in self.omit]
        if self.wrong_index:
            for log in logs:
                index = self.wrong_index.get((block.hash, int(log["logIndex"], 16)))
                if index is not None:
                    log["logIndex"] = hex(index)
        if self._torn is not None and self.torn_disguise:
            header = self.at(block.number)
            for log in logs:
                log["blockHash"] = header.hex if header else log["blockHash"]
        if self.log_timestamps != "all":
            for n, log in enumerate(logs):
                if self.log_timestamps == "none" or n % 2:
                    del log["blockTimestamp"]
        return logs

    def _removed(self, first: int, last: int) -> list[Json]:
        if self.removed_from is None:
            return []
        fork = self.tree.fork_point(self.removed_from, self.head).number
        orphaned = self.tree.path(self.removed_from)[max(first, fork + 1) : last + 1]
        return [g | {"removed": True} for block in orphaned for g in block.logs()]


def _matches(log: Json, watched: set[str] | None, topics: list[Any]) -> bool:
    if watched is not None and log["address"] not in watched:
        return False
    if len(topics) > len(log["topics"]):
        return False
    for has, want in zip(log["topics"], topics, strict=False):
        if want is not None and has not in ([want] if isinstance(want, str) else want):
            return False
    return True


def _hash(text: str) -> bytes:
    if not _HASH.fullmatch(text):
        raise Refusal(-32602, f"invalid argument 0: not a hash: {text}")
    return bytes.fromhex(text[2:])


def _quantity(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise Refusal(-32602, f"invalid argument 0: not a block number: {text}") from None
