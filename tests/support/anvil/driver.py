"""Sends flows to an anvil and knows the truth: which logs the canonical chain holds, from what was sent and the blocks'
lists of transactions, without asking the node for a single log."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from eth_abi.abi import encode
from eth_hash.auto import keccak

from tests.support.anvil.compiler import contracts
from tests.support.anvil.emission import Abis, Emission
from tests.support.anvil.flows import Flow, World
from tests.support.anvil.node import AnvilNode

_RUN = keccak(b"run(address[],bytes[])")[:4]
GAS = hex(60_000_000)


class Driver:
    """One deployment's contracts on one node."""

    def __init__(self, node: AnvilNode, deployment: str = "reya", seed: int = 1) -> None:
        self.node, self.abis = node, Abis(deployment)
        self.world = World(self.abis, seed)
        self.rng = random.Random(seed)
        self.sent: dict[str, Flow] = {}
        self._script = "0x00000000000000000000000000000000005c7197"

    def install(self) -> None:
        """Emitters at every configured address, then the configuration of the exchange."""
        self._place()
        self.send(self.world.setup())
        self.node.mine()

    def _place(self) -> None:
        _, emitter = contracts()["Emitter"]
        _, script = contracts()["Script"]
        self.node.batch([("anvil_setCode", [a, emitter]) for a in self.abis.addresses.values()])
        self.node.rpc("anvil_setCode", self._script, script)

    def send(self, flows: Sequence[Flow]) -> list[str]:
        """One pending transaction per flow."""
        if not flows:
            return []
        calls = [("eth_sendTransaction", [self._transaction(flow)]) for flow in flows]
        hashes: list[str] = self.node.batch(calls)
        self.sent.update(zip(hashes, flows, strict=True))
        return hashes

    def _transaction(self, flow: Flow) -> dict[str, str]:
        payloads = [encode(["bytes32[]", "bytes"], [list(e.topics), e.data]) for e in flow]
        data = _RUN + encode(["address[]", "bytes[]"], [[e.address for e in flow], payloads])
        # A distinct gas limit makes each transaction's hash its own, even for equal flows on two branches.
        gas = hex(int(GAS, 16) + len(self.sent))
        return {"from": self.node.sender, "to": self._script, "gas": gas, "data": "0x" + data.hex()}

    def play(self, blocks: int, transactions: int = 4) -> None:
        """Blocks of up to `transactions` random transactions; some blocks are empty."""
        for _ in range(blocks):
            self.send([self.world.transaction() for _ in range(self.rng.randrange(transactions + 1))])
            self.node.mine()

    def reorg(self, depth: int, blocks: int | None = None) -> None:
        """Replaces the last `depth` blocks by `blocks` others (one more, unless told); some transactions come again."""
        head = self.node.head()[0]
        lost: list[str] = []
        for number in range(head - depth + 1, head + 1):
            lost += self.node.block(number)["transactions"]
        self.node.rpc("anvil_rollback", depth)
        self.node.rpc("anvil_dropAllTransactions")
        self._place()  # a node that goes back far forgets code that no transaction made
        again = [self.sent[h] for h in lost if self.rng.random() < 0.5]
        self.rng.shuffle(again)
        # Other times give other hashes, even to empty blocks.
        self.node.rpc("evm_increaseTime", self.rng.randrange(1, 30))
        blocks = depth + 1 if blocks is None else blocks
        share = -(-len(again) // min(max(blocks, 1), 1 + len(again) // 50))  # a node's pool takes only so many at once
        for n in range(blocks):
            fresh = [self.world.transaction() for _ in range(self.rng.randrange(3))]
            self.send(again[n * share : (n + 1) * share] + fresh)
            self.node.mine()

    def canonical(self) -> list[dict[str, Any]]:
        """Every log of the canonical chain in JSON-RPC form, in order, with `event` and `blockTimestamp`."""
        head = self.node.head()[0]
        blocks = self.node.batch([("eth_getBlockByNumber", [hex(n), False]) for n in range(head + 1)])
        logs: list[dict[str, Any]] = []
        for block in blocks:
            index = 0
            for position, transaction in enumerate(block["transactions"]):
                for emission in self.sent[transaction]:
                    logs.append(_rpc_form(emission, block, transaction, position, index))
                    index += 1
        return logs

    def check_node(self) -> None:
        """The node agrees: no transaction failed, and its logs are the ones we know of."""
        asked = {"fromBlock": "0x0", "toBlock": "latest", "address": list(self.abis.addresses.values())}
        said = self.node.rpc("eth_getLogs", asked)
        keys = (
            "address",
            "topics",
            "data",
            "blockNumber",
            "blockHash",
            "transactionHash",
            "transactionIndex",
            "logIndex",
        )
        expected = [{k: log[k] for k in keys} for log in self.canonical()]
        assert [{k: log[k] for k in keys} for log in said] == expected


def _rpc_form(e: Emission, block: dict[str, Any], transaction: str, position: int, index: int) -> dict[str, Any]:
    return {
        "event": e.event,
        "address": e.address,
        "topics": ["0x" + t.hex() for t in e.topics],
        "data": "0x" + e.data.hex(),
        "blockNumber": block["number"],
        "blockHash": block["hash"],
        "blockTimestamp": block["timestamp"],
        "transactionHash": transaction,
        "transactionIndex": hex(position),
        "logIndex": hex(index),
    }
