"""The fast node and the chains that it serves, against what the blocks themselves say."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import decode, encode

from benchmarks.chain import CHAIN_ID, MIX, abi_of, blocks, entry_of, write
from indexer.errors import RangeTooLargeError
from indexer.rpc.error_classifier import classify
from tests.support.anvil.emission import Abis, canonical
from tests.support.simchain.chain import Block
from tests.support.simchain.encoding import header_hash
from tests.support.simchain.fast import FastNode, Knobs, Node, ask
from tests.support.simchain.recording import Recording, block_of, line_of
from tests.support.waiting import PATIENCE, until

BLOCKS, LOGS = 60, 200
Json = dict[str, Any]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("chain") / "chain.jsonl"
    write(made, BLOCKS, LOGS, seed=7)
    return made


@pytest.fixture(scope="module")
def chain() -> list[Block]:
    return list(blocks(BLOCKS, LOGS, seed=7))


@pytest.fixture
def node(path: Path) -> Node:
    return Node(Recording(path, log_timestamp=True), Knobs())


def call(node: Node, method: str, *params: object) -> Json:
    asked = {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}
    told: Json = json.loads(node.answer(json.dumps(asked).encode()))
    assert told.pop("jsonrpc") == "2.0" and told.pop("id") == 5
    return told


def get_logs(node: Node, first: int, last: int, **more: object) -> Any:
    return call(node, "eth_getLogs", {"fromBlock": hex(first), "toBlock": hex(last)} | more)["result"]


def test_a_chain_is_a_chain_and_another_seed_is_another(chain: list[Block]) -> None:
    for parent, block in pairwise(chain):
        assert (block.number, block.parent) == (parent.number + 1, parent.hash)
    assert all("0x" + header_hash(b.header()).hex() == b.hex for b in chain)
    assert sum(len(b.logs()) for b in chain) == LOGS
    assert [b.hash for b in blocks(BLOCKS, LOGS, seed=7)] == [b.hash for b in chain]
    assert next(b.hash for b in blocks(BLOCKS, LOGS, seed=8) if b.txs) not in {b.hash for b in chain}


def test_events_come_in_their_shares_and_encoded_as_an_abi_library_does(chain: list[Block]) -> None:
    abis, logs = Abis("reya"), [log for b in chain for _, _, _, log in b]
    for event, share in MIX.items():
        address, topic0 = abi_of(abis, event)
        some = [log for log in logs if (log.address, log.topics[0]) == (address, topic0)]
        assert len(some) == LOGS * share // 100, event
        inputs = entry_of(abis, event)["inputs"]
        plain = [canonical(i) for i in inputs if not i["indexed"]]
        for log in some:
            assert len(log.topics) == 1 + len(inputs) - len(plain)
            assert encode(plain, decode(plain, log.data)) == log.data


def test_a_line_is_the_whole_block(chain: list[Block]) -> None:
    for block in chain:
        again = block_of(line_of(block))
        assert (again.header(), again.receipts()) == (block.header(), block.receipts())


def test_blocks_and_receipts(node: Node, chain: list[Block]) -> None:
    assert call(node, "eth_chainId")["result"] == hex(CHAIN_ID)
    assert call(node, "eth_blockNumber")["result"] == hex(BLOCKS)
    for block in chain[::7]:
        assert call(node, "eth_getBlockByNumber", hex(block.number), False)["result"] == block.header()
        assert call(node, "eth_getBlockReceipts", hex(block.number))["result"] == block.receipts()
    assert call(node, "eth_getBlockByNumber", "latest", False)["result"] == chain[-1].header()
    assert call(node, "eth_getBlockByNumber", hex(BLOCKS + 1), False)["result"] is None
    node.reset({"finality": 20})
    tagged = [call(node, "eth_getBlockByNumber", tag, False)["result"]["number"] for tag in ("safe", "finalized")]
    assert tagged == [hex(BLOCKS - 10), hex(BLOCKS - 20)]


def test_logs_of_any_range_and_filter(node: Node, chain: list[Block]) -> None:
    every = [log for b in chain for log in b.logs()]
    address, topic = every[0]["address"], every[1]["topics"][0]
    filters: list[tuple[Json, list[Json]]] = [
        ({}, every),
        ({"address": [g["address"].upper().replace("X", "x") for g in every]}, every),
        ({"address": address}, [g for g in every if g["address"] == address]),
        ({"topics": [topic]}, [g for g in every if g["topics"][0] == topic]),
        ({"topics": [[topic]], "address": [address]}, []),
        ({"address": "0x" + "00" * 20}, []),
    ]
    filters[4] = (filters[4][0], [g for g in filters[3][1] if g["address"] == address])
    for more, matching in filters:
        for first, last in ((0, BLOCKS), (0, 0), (1, 1), (5, 17), (17, 17), (BLOCKS, BLOCKS)):
            wanted = [g for g in matching if first <= int(g["blockNumber"], 16) <= last]
            assert get_logs(node, first, last, **more) == wanted
    block = next(b for b in chain if b.txs)
    assert call(node, "eth_getLogs", {"blockHash": block.hex})["result"] == block.logs()
    assert "error" in call(node, "eth_getLogs", {"blockHash": "0x" + "00" * 32})


def test_logs_without_times(path: Path, chain: list[Block]) -> None:
    node = Node(Recording(path, log_timestamp=False), Knobs())
    told = get_logs(node, 0, BLOCKS)
    assert told == [{k: v for k, v in g.items() if k != "blockTimestamp"} for b in chain for g in b.logs()]


def test_it_refuses_as_providers_do(node: Node, chain: list[Block]) -> None:
    node.reset({"max_range": 10})
    error = call(node, "eth_getLogs", {"fromBlock": "0x1", "toBlock": "0xb"})["error"]
    refusal = classify(error["code"], error["message"])
    assert isinstance(refusal, RangeTooLargeError) and refusal.hint == 10
    assert get_logs(node, 1, 10) and node.errors.total() == 1
    node.reset({"max_range": 0, "max_logs": 30, "says": "geth"})
    error = call(node, "eth_getLogs", {"fromBlock": "0x1", "toBlock": hex(BLOCKS)})["error"]
    refusal = classify(error["code"], error["message"])
    assert isinstance(refusal, RangeTooLargeError) and refusal.hint is not None
    served, more = get_logs(node, 1, refusal.hint), call(node, "eth_getLogs", _range(1, refusal.hint + 1))
    assert len(served) <= 30 and "error" in more
    for wrong in (_range(3, 2), _range(0, BLOCKS + 1), {"fromBlock": "zero"}, _range(0, 1) | {"topics": [None, "0x"]}):
        assert call(node, "eth_getLogs", wrong)["error"]["code"] == -32602
    assert call(node, "eth_getBlockByNumber", "0x1", True)["error"]["code"] == -32602
    assert call(node, "eth_call")["error"]["code"] == -32601


def _range(first: int, last: int) -> Json:
    return {"fromBlock": hex(first), "toBlock": hex(last)}


def test_a_growing_head(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.reset({"start_head": 10, "rate": 4.0})
    now = node.started
    monkeypatch.setattr("tests.support.simchain.fast.time.monotonic", lambda: now)
    heads = []
    for now in (node.started, node.started + 0.26, node.started + 1, node.started + 99):  # noqa: B007 - read above
        heads.append(node.head())
    assert heads == [10, 11, 14, BLOCKS]


def test_more_than_the_limit_in_any_second_are_too_many(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.reset({"rate_limit": 2})
    now = node.started
    monkeypatch.setattr("tests.support.simchain.fast.time.monotonic", lambda: now)
    over = []
    for now in (node.started + after for after in (0, 0.4, 0.5, 0.9, 1.1, 1.2, 1.4)):  # noqa: B007 - read above
        over.append(node.over_rate())
    assert over == [False, False, True, True, False, True, False]


@pytest.fixture(scope="module")
def served(path: Path) -> Iterator[FastNode]:
    with FastNode(path, log_timestamp=True) as node:
        yield node


def test_over_http_in_batches_and_counted(served: FastNode, chain: list[Block]) -> None:
    served.reset()
    calls = [{"jsonrpc": "2.0", "id": n, "method": "eth_getBlockByNumber", "params": [hex(n), False]} for n in (3, 4)]
    assert [a["result"] for a in ask(served.url, calls)] == [chain[3].header(), chain[4].header()]
    one = {"jsonrpc": "2.0", "id": "x", "method": "eth_getLogs", "params": [_range(0, BLOCKS)]}
    assert ask(served.url, one)["result"] == [g for b in chain for g in b.logs()]
    stats = served.stats()
    assert (stats["http_requests"], stats["batches"], stats["logs"]) == (2, 1, LOGS)
    assert stats["methods"] == {"eth_getBlockByNumber": 2, "eth_getLogs": 1} and stats["errors"] == {}


def test_too_many_requests(served: FastNode) -> None:
    served.reset(rate_limit=2, retry_after=0.5)
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}

    def refused() -> urllib.error.HTTPError | None:
        try:
            assert ask(served.url, call)["result"] == hex(CHAIN_ID)
        except urllib.error.HTTPError as error:
            return error
        return None

    with until(refused, "a third request within a second") as error:
        assert (error.code, error.headers["Retry-After"]) == (429, "0.5")
    assert served.stats()["limited"] == 1
    served.reset()
    assert ask(served.url, call)["result"] == hex(CHAIN_ID)


def test_what_is_no_json_is_refused(served: FastNode) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(served.url, b"{", timeout=PATIENCE)
    with refused.value as error:
        assert error.code == 400
