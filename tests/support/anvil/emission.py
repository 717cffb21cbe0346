"""Events to topics and data, straight from the JSON ABIs with eth-abi: no code of the program's decoder."""

from __future__ import annotations

import json
import random
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_hash.auto import keccak

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Emission:
    """One log to be emitted; `event` is for people."""

    event: str
    address: str
    topics: tuple[bytes, ...]
    data: bytes


def canonical(entry: dict[str, Any]) -> str:
    kind: str = entry["type"]
    if kind.startswith("tuple"):
        return f"({','.join(canonical(c) for c in entry['components'])}){kind[5:]}"
    return kind


class Abis:
    """The events of one deployment's contracts, by contract name and event name."""

    def __init__(self, deployment: str) -> None:
        config = tomllib.loads((ROOT / "config" / f"{deployment}.toml").read_text())
        self.addresses: dict[str, str] = {c["name"]: c["address"].lower() for c in config["contract"]}
        self.events: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for contract in config["contract"]:
            for abi in contract["abis"]:
                for event in json.loads((ROOT / "abis" / f"{abi}.json").read_text()):
                    self.events.setdefault((contract["name"], event["name"]), []).append(event)

    def make(
        self, rng: random.Random, contract: str, event: str, args: dict[str, Any], variant: int = 0
    ) -> Emission:  # fmt: skip
        """A log of the event; arguments that are not given are random. `variant` picks among ABIs of one name."""
        abi = self.events[contract, event][variant]
        types = [canonical(i) for i in abi["inputs"]]
        values = [fill(rng, i, args.get(i["name"])) for i in abi["inputs"]]
        topics = [keccak(f"{event}({','.join(types)})".encode())]
        plain: list[tuple[str, Any]] = []
        for entry, kind, value in zip(abi["inputs"], types, values, strict=True):
            if entry.get("indexed"):
                topics.append(encode([kind], [value]))
            else:
                plain.append((kind, value))
        return Emission(
            event,
            self.addresses[contract],
            tuple(topics),
            encode(*map(list, zip(*plain, strict=True))) if plain else b"",
        )


def fill(rng: random.Random, entry: dict[str, Any], given: Any) -> Any:
    """The value of an argument: `given`, with random values wherever it says nothing."""
    kind: str = entry["type"]
    if kind == "tuple":
        return tuple(fill(rng, c, (given or {}).get(c["name"])) for c in entry["components"])
    if given is not None:
        return given
    if kind.endswith("[]"):
        inner = entry | {"type": kind[:-2]}
        return [fill(rng, inner, None) for _ in range(rng.randrange(3))]
    if kind.startswith("uint"):
        return rng.randrange(min(2 ** int(kind[4:]), 10**24))
    if kind.startswith("int"):
        bound = min(2 ** (int(kind[3:]) - 1), 10**24)
        return rng.randrange(-bound, bound)
    if kind == "address":
        return "0x" + rng.randbytes(20).hex()
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "bytes32":
        return rng.randbytes(32)
    if kind == "bytes":
        return rng.randbytes(rng.randrange(70))
    if kind == "string":
        return "".join(rng.choices("aäb\tc\\n\"'€ ", k=rng.randrange(40)))
    raise ValueError(f"no random value for {kind}")
