"""Logs to events, by the JSON ABIs and eth-abi alone. Imports nothing of the program."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from eth_abi.abi import decode
from eth_hash.auto import keccak

ABIS = Path(__file__).parents[3] / "abis"
Abi = dict[str, Any]


def signature(item: Abi) -> str:
    kind: str = item["type"]
    if kind.startswith("tuple"):
        return "(" + ",".join(signature(c) for c in item["components"]) + ")" + kind.removeprefix("tuple")
    return kind


def named(item: Abi, value: Any) -> Any:
    """Tuples to dicts, addresses lower-case."""
    if item["type"].endswith("[]"):
        return [named(item | {"type": item["type"][:-2]}, v) for v in value]
    if item["type"] == "tuple":
        return {c["name"]: named(c, v) for c, v in zip(item["components"], value, strict=True)}
    return value.lower() if item["type"] == "address" else value


class Config:
    """A deployment's TOML: addresses, which are ERC-20, the AMM pool's account, token names, and the event of each
    (address, topic0)."""

    def __init__(self, path: str | Path) -> None:
        raw = tomllib.loads(Path(path).read_text())
        self.erc20: set[str] = set()
        self.rusd: str | None = None
        self.pool: int | None = None
        self.events: dict[str, dict[str, Abi]] = {}
        for contract in raw["contract"]:
            address = contract["address"].lower()
            self.events[address] = {}
            self.pool = contract.get("pool_account", self.pool)
            if contract.get("erc20"):
                self.erc20.add(address)
            if contract["name"] == "rusd":
                self.rusd = address
            for abi in contract["abis"]:
                for event in json.loads((ABIS / f"{abi}.json").read_text()):
                    text = event["name"] + "(" + ",".join(signature(i) for i in event["inputs"]) + ")"
                    self.events[address]["0x" + keccak(text.encode()).hex()] = event
        self.tokens = {t["address"].lower(): (t["name"], t["symbol"]) for t in raw.get("token", [])}

    def read(self, log: dict[str, Any]) -> tuple[str | None, dict[str, Any], str]:
        """Event name, arguments, and why there is none."""
        topics = log["topics"]
        if not topics:
            return None, {}, "no topics"
        event = self.events[log["address"]].get(topics[0])
        if event is None:
            return None, {}, "unknown topic"
        indexed = [i for i in event["inputs"] if i.get("indexed")]
        plain = [i for i in event["inputs"] if not i.get("indexed")]
        if len(indexed) != len(topics) - 1:
            return None, {}, "does not fit"
        try:
            args = {
                i["name"]: named(i, decode([i["type"]], bytes.fromhex(t[2:]))[0])
                for i, t in zip(indexed, topics[1:], strict=True)
            }
            values = decode([signature(i) for i in plain], bytes.fromhex(log["data"][2:]))
        except Exception:
            return None, {}, "does not fit"
        return event["name"], args | {i["name"]: named(i, v) for i, v in zip(plain, values, strict=True)}, ""
