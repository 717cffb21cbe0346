"""The test equipment itself: what the driver says was emitted is what a real node holds, through reorgs."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_hash.auto import keccak

from tests.support.anvil.driver import Driver
from tests.support.anvil.emission import Abis
from tests.support.anvil.flows import World
from tests.support.anvil.node import FINALIZED_BEHIND, ROOT, AnvilNode
from tests.support.waiting import guard

# Published hashes: the encoder's own reading of the ABI files is not what proves the encoder.
PUBLISHED = {
    "AccountCreated": "0xa8920e468ffb8af7453502a9773e3b2a8c98f53b02e3d02ef051a0281f78f346",
    "AccountOwnerUpdated": "0x5e175266146888e07325bd82435c137b9f1d3ddc5511e9f07e007248066c7c9d",
    "AccountExecutedLiquidationBid": "0xcc40a505a2d5747ad05fe40888de568a15d04355be106480c27d40042d399518",
    "AutoExchangeTriggered": "0xe97770cd0a158381da9b8f5f975dee25c4aca198cc6fe4af934a39d98ef30293",
    "Deposited": "0xe0c51bc9d9abe760adb604a170bec5da23a825817bc3d80c7aac2f57e5774943",
    "PassivePerpOrderAndPositionUpdate": "0xe372d0d9dbca7960163c70cafbc51b1c2b7745e238f6a9c84ceb5343944a966a",
    "Transfer": "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef",
}
BOTH_GENERATIONS = {
    "PassivePerpMatchOrder": {
        "0xd03af21de3289a75d10ce5fb544cdb8ad2053f4068c8d4a1f06d1f17ecf05374",
        "0xe8137aa901976cc8eaf1cef5dec491873faadc99d9720ccaec95673294a9d7c5",
    },
    "PassivePerpExecutionV3": {
        "0x805bcf36031208434c504ebc1d666e2276650aa2314a6c38d6ae21b42b543f9b",
        "0x3241b27e0f195bcdee369c35b4949b4dc7357380ca69e20b51e4b17d00b6fabe",
    },
    "MarketDataUpdated": {
        "0x659b56366249afd4fbe49a60c12ad4187a389edf956d30681ee7db608da144cf",
        "0x65012893b271c75d9028a0b4df8ff4d7a5687a9e510a0c5c0046148c5e707fc1",
    },
}
UNREADABLE = {"unknown", "without topics", "Deposited, cut"}


@pytest.fixture
def driver() -> Iterator[Driver]:
    with AnvilNode() as node:
        made = Driver(node, seed=3)
        made.install()
        yield made


def spelled(entry: dict[str, Any]) -> str:
    """The type as a signature spells it."""
    kind: str = entry["type"]
    if not kind.startswith("tuple"):
        return kind
    return "(" + ",".join(map(spelled, entry["components"])) + ")" + kind.removeprefix("tuple")


def abis_by_address() -> dict[tuple[str, str, int], dict[str, Any]]:
    """The event's ABI by (address, topic0, number of topics), from the files alone."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for contract in tomllib.loads((ROOT / "config/reya.toml").read_text())["contract"]:
        for name in contract["abis"]:
            for event in json.loads((ROOT / "abis" / f"{name}.json").read_text()):
                signature = f"{event['name']}({','.join(map(spelled, event['inputs']))})"
                topics = 1 + sum(bool(i.get("indexed")) for i in event["inputs"])
                found[contract["address"].lower(), "0x" + keccak(signature.encode()).hex(), topics] = event
    return found


def read(log: dict[str, Any], abis: dict[tuple[str, str, int], dict[str, Any]]) -> str | None:
    """The event's name, or None where eth-abi cannot read the log as its ABI; every read must encode back to it."""
    if not log["topics"]:
        return None
    event = abis.get((log["address"], log["topics"][0], len(log["topics"])))
    if event is None:
        return None
    plain = [spelled(i) for i in event["inputs"] if not i.get("indexed")]
    indexed = [spelled(i) for i in event["inputs"] if i.get("indexed")]
    data = bytes.fromhex(log["data"][2:])
    try:
        values = decode(plain, data)
    except DecodingError:
        return None
    assert encode(plain, values) == data
    for kind, topic in zip(indexed, log["topics"][1:], strict=True):
        word = bytes.fromhex(topic[2:])
        assert encode([kind], decode([kind], word)) == word
    name: str = event["name"]
    return name


def node_logs(driver: Driver) -> list[dict[str, Any]]:
    """Every log of the chain, of whatever address."""
    found: list[dict[str, Any]] = driver.node.rpc("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest"})
    return found


def hashes(driver: Driver) -> list[str]:
    head = driver.node.head()[0]
    return [b["hash"] for b in driver.node.batch([("eth_getBlockByNumber", [hex(n), False]) for n in range(head + 1)])]


def flows_from(driver: Driver, first: int) -> dict[int, str]:
    """Identity of each flow in blocks from `first` on, with its transaction's hash."""
    head = driver.node.head()[0]
    found = [h for n in range(first, head + 1) for h in driver.node.block(n)["transactions"]]
    return {id(driver.sent[h]): h for h in found}


def test_what_the_node_holds_reads_by_eth_abi_as_what_was_sent(driver: Driver) -> None:
    driver.play(60)
    driver.check_node()
    said, known = node_logs(driver), driver.canonical()
    abis = abis_by_address()
    assert len(said) == len(known) > 200
    for log, truth in zip(said, known, strict=True):
        assert read(log, abis) == (None if truth["event"] in UNREADABLE else truth["event"])
        assert log["blockTimestamp"] == truth["blockTimestamp"]
    assert {log["event"] for log in known} >= UNREADABLE | set(PUBLISHED)


def test_every_generation_has_the_published_topic(driver: Driver) -> None:
    driver.play(60)
    topics: dict[str, set[str]] = {}
    for log in driver.canonical():
        if log["topics"]:
            topics.setdefault(log["event"], set()).add(log["topics"][0])
    for event, topic in PUBLISHED.items():
        assert topics[event] == {topic}
    for event, both in BOTH_GENERATIONS.items():
        assert topics[event] == both


def test_one_transaction_carries_the_logs_of_several_contracts_in_the_order_given(driver: Driver) -> None:
    flow = driver.world.open_account()
    (transaction,) = driver.send([flow])
    driver.node.mine()
    receipt = driver.node.rpc("eth_getTransactionReceipt", transaction)
    assert receipt["status"] == "0x1"
    assert [(g["address"], g["topics"], g["data"]) for g in receipt["logs"]] == [
        (e.address, ["0x" + t.hex() for t in e.topics], "0x" + e.data.hex()) for e in flow
    ]
    transfer, first, _, second = receipt["logs"]
    assert len(transfer["topics"]) == 4
    assert (first["topics"], first["data"]) == (second["topics"], second["data"])


def test_equal_seeds_give_equal_flows() -> None:
    abis = Abis("reya")
    one, same, other = (World(abis, seed) for seed in (7, 7, 8))
    flows = [[world.transaction() for _ in range(50)] for world in (one, same, other)]
    assert flows[0] == flows[1] != flows[2]


@pytest.mark.parametrize(("depth", "blocks"), [(1, 1), (3, 4), (5, 2), (7, 7)])
def test_a_reorg_replaces_exactly_the_blocks_it_says(driver: Driver, depth: int, blocks: int) -> None:
    driver.play(20)
    before, first = hashes(driver), driver.node.head()[0] - depth + 1
    finalized = driver.node.block("finalized")
    driver.reorg(depth, blocks)
    after = hashes(driver)
    assert len(after) == len(before) - depth + blocks
    assert after[:first] == before[:first]
    assert not set(after[first:]) & set(before[first:])
    assert driver.node.block(int(finalized["number"], 16))["hash"] == finalized["hash"]
    orphans = driver.node.batch([("eth_getBlockByHash", [h, False]) for h in before[first:]])
    assert orphans == [None] * depth
    driver.check_node()
    assert not {log["blockHash"] for log in node_logs(driver)} & set(before[first:])


def test_a_reorg_drops_some_transactions_takes_some_again_and_adds_new_ones(driver: Driver) -> None:
    driver.play(20)
    first = driver.node.head()[0] - 6
    old = flows_from(driver, first)
    driver.reorg(7)
    new = flows_from(driver, first)
    assert old.keys() - new.keys() and old.keys() & new.keys() and new.keys() - old.keys()
    assert all(old[flow] != new[flow] for flow in old.keys() & new.keys())
    canonical = {log["transactionHash"] for log in driver.canonical()}
    assert not canonical & set(old.values())
    assert set(new.values()) <= canonical
    emitted = Counter(e.event for t in canonical for e in driver.sent[t])
    assert emitted == Counter(log["event"] for log in driver.canonical())
    driver.check_node()


def floor_base_fee(driver: Driver) -> None:
    """A long empty chain, at whose end anvil's base fee stands still.

    A rollback does not rewind that fee: while it falls it changes every hash by itself and hides a driver that
    changes nothing.
    """
    driver.node.rpc("anvil_mine", hex(200))
    driver.node.mine()
    fees = [driver.node.block(driver.node.head()[0] - n)["baseFeePerGas"] for n in range(3)]
    assert len(set(fees)) == 1


def test_even_empty_blocks_are_replaced_by_others(driver: Driver) -> None:
    floor_base_fee(driver)
    for _ in range(6):
        driver.node.mine(2)
        before, first = hashes(driver), driver.node.head()[0] - 1
        driver.reorg(2, 2)
        assert not set(hashes(driver)[first:]) & set(before[first:])


def test_a_transaction_taken_again_at_its_old_nonce_has_a_hash_of_its_own(driver: Driver) -> None:
    floor_base_fee(driver)
    taken = 0
    for _ in range(8):
        flow = driver.world.open_account()
        (old,) = driver.send([flow])
        driver.node.mine()
        driver.reorg(1, 1)
        new = flows_from(driver, driver.node.head()[0]).get(id(flow))
        assert new != old
        taken += new is not None
    assert 0 < taken < 8


def test_a_truth_that_is_wrong_by_one_byte_is_noticed(driver: Driver) -> None:
    driver.play(5)
    driver.check_node()
    victim = driver.canonical()[-1]["transactionHash"]
    driver.sent[victim] = [*driver.sent[victim], driver.world.log("core", "AccountCreated")]
    with pytest.raises(AssertionError):
        driver.check_node()


def test_the_tags_lag_so_that_seven_blocks_may_be_replaced() -> None:
    with AnvilNode() as node:
        node.mine(3)
        assert (node.block("safe")["number"], node.block("finalized")["number"]) == ("0x0", "0x0")
        node.mine(20)
        assert 2 * node.slots == FINALIZED_BEHIND
        assert int(node.block("safe")["number"], 16) == 23 - node.slots
        assert int(node.block("finalized")["number"], 16) == 23 - FINALIZED_BEHIND


async def test_newheads_announce_the_new_branch_but_not_the_rollback() -> None:
    with AnvilNode() as node:
        node.mine(3)
        async with aiohttp.ClientSession() as session, session.ws_connect(node.ws_url) as socket, guard("newHeads"):
            await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]})
            subscription = (await socket.receive_json())["result"]
            node.mine(2)
            node.rpc("anvil_rollback", 2)
            node.rpc("evm_increaseTime", 10)
            node.mine()
            told = [(await socket.receive_json())["params"] for _ in range(3)]
            assert {t["subscription"] for t in told} == {subscription}
            assert [t["result"]["number"] for t in told] == ["0x4", "0x5", "0x4"]
            assert told[0]["result"]["hash"] != told[2]["result"]["hash"] == node.head()[1]


def test_a_range_that_starts_beyond_the_head_is_an_error_and_one_that_ends_there_is_not(driver: Driver) -> None:
    head = driver.node.head()[0]
    assert driver.node.rpc("eth_getLogs", {"fromBlock": "0x0", "toBlock": hex(head + 5)}) == node_logs(driver)
    with pytest.raises(RuntimeError, match="BlockOutOfRange"):
        driver.node.rpc("eth_getLogs", {"fromBlock": hex(head + 1), "toBlock": hex(head + 5)})
