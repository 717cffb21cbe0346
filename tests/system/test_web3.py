"""web3.py reads the same chain as our reader and decoder do: logs, headers, events and their arguments."""

from __future__ import annotations

import json
from typing import Any

from web3 import Web3
from web3.exceptions import LogTopicError, MismatchedABI

from indexer import config
from indexer.decode.registry import Registry
from indexer.errors import DecodeMismatchError
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from tests.support.anvil.driver import Driver
from tests.support.anvil.node import ROOT, AnvilNode


def plain(value: Any) -> Any:
    """web3's attribute dicts and checksum addresses as our decoder gives them."""
    if hasattr(value, "items"):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, str) and value.startswith("0x") and len(value) == 42:
        return value.lower()
    return bytes(value) if isinstance(value, bytes) else value


async def test_our_reader_and_decoder_agree_with_web3() -> None:
    deployment = config.load("reya")
    registry = Registry(deployment.contracts)
    addresses = [c.address for c in deployment.contracts]
    with AnvilNode() as node:
        driver = Driver(node, seed=31)
        driver.install()
        driver.play(30)
        head = node.head()[0]
        pool = Pool([node.url], 1729)

        async def read(reader: Reader) -> Any:
            return await reader.logs_with_headers(0, head, addresses, range(head + 1))

        logs, headers = await pool.with_failover(read)
        await pool.close()
        w3 = Web3(Web3.HTTPProvider(node.url))
        theirs = w3.eth.get_logs(
            {"fromBlock": 0, "toBlock": head, "address": [Web3.to_checksum_address(a) for a in addresses]}
        )
        assert [(g.block_number, g.log_index, g.transaction_hash, g.data, g.block_hash) for g in logs] == [
            (t["blockNumber"], t["logIndex"], bytes(t["transactionHash"]), bytes(t["data"]), bytes(t["blockHash"]))
            for t in theirs
        ]
        for header in headers:
            block = w3.eth.get_block(header.number)
            assert (header.hash, header.parent_hash, header.timestamp, header.logs_bloom) == (
                bytes(block["hash"]), bytes(block["parentHash"]), block["timestamp"], bytes(block["logsBloom"]),
            )  # fmt: skip
        compared = 0
        for log, their in zip(logs, theirs, strict=True):
            address = "0x" + log.address.hex()
            try:
                event, args = registry.decode(address, log.topics, log.data)
            except DecodeMismatchError:
                continue
            contract = next(c for c in deployment.contracts if c.address == address)
            abi = [e for name in contract.abis for e in json.loads((ROOT / f"abis/{name}.json").read_text())]
            same = [e for e in abi if e["name"] == event.name]
            read_by_web3 = None
            for variant in same:  # web3 cannot hold two events of one name, so each ABI is tried alone
                try:
                    read_by_web3 = w3.eth.contract(abi=[variant]).events[event.name]().process_log(their)
                    break
                except (LogTopicError, MismatchedABI):
                    continue
            assert read_by_web3 is not None and plain(read_by_web3["args"]) == args
            compared += 1
        assert compared > 100
