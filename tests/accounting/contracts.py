"""A node whose contracts answer: views at a block named by its hash, from the desk's books and the oracle's tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eth_abi.abi import decode, encode
from eth_hash.auto import keccak

from tests.accounting.desk import E18, Desk
from tests.support.oracle.recompute import recompute
from tests.support.simchain.node import SimNode
from tests.support.simchain.refusals import Refusal

CONFIG = Path(__file__).parents[2] / "config" / "devnet.toml"
FUNCTIONS = {
    keccak(f"{name}({','.join(types)})".encode())[:4]: (name, types)
    for name, types in {
        "getAccountOwner": ["uint128"], "getCollateralInfo": ["uint128", "address"],
        "getUpdatedPositionInfo": ["uint128", "uint128"], "getMarketConfiguration": ["uint128"],
        "getGlobalFeeParameters": [], "getAccountOwnerFeeConfiguration": ["address"],
        "getFeeTierParameters": ["uint256"], "getSharePrice": ["uint128"], "getPoolMarginBalance": ["uint128"],
        "name": [], "symbol": [], "decimals": [],
    }.items()
}  # fmt: skip
NOBODY = "0x" + "00" * 20


class ContractNode(SimNode):
    """`desks`: the books after each block, by its hash. `order_book`: structs have the newer contracts' fields, too."""

    def knobs(self) -> None:
        super().knobs()
        self.desks: dict[bytes, Desk] = {}
        self.drift: dict[str, Callable[[list[Any]], list[Any]]] = {}  # by function, another answer
        self.reverts: set[str] = set()
        self.stateless = False
        self.order_book = False
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self._tables: dict[bytes, dict[str, list[dict[str, Any]]]] = {}

    def do_eth_call(self, call: dict[str, str], block: Any) -> str:
        if not isinstance(block, dict) or block.get("requireCanonical") is not True:
            raise Refusal(-32602, "this node wants a block's hash")
        at = self.by_hash(bytes.fromhex(block["blockHash"][2:]))
        if at is None:
            raise Refusal(-32000, "header not found")
        if self.stateless:
            raise Refusal(-32000, f"missing trie node {at.hex[2:10]} (path ) state is not available")
        data = bytes.fromhex(call["data"][2:])
        if not data:
            return "0x"  # nobody's code runs
        name, types = FUNCTIONS[data[:4]]
        arguments = decode(types, data[4:])
        self.asked.append((name, arguments))
        if name in self.reverts:
            raise Refusal(3, "execution reverted")
        kinds, values = getattr(self, f"on_{name}")(at.hash, call["to"], *arguments)
        return "0x" + encode(kinds, self.drift.get(name, list)(list(values))).hex()

    def tables(self, block_hash: bytes) -> dict[str, list[dict[str, Any]]]:
        if block_hash not in self._tables:
            self._tables[block_hash] = recompute(self.tree.logs(block_hash), CONFIG)
        return self._tables[block_hash]

    def on_getAccountOwner(self, at: bytes, to: str, account: int) -> Any:
        rows = self.tables(at)["account_owner_updated_snapshot"]
        return ["address"], [next((r["new_owner"] for r in rows if r["account_id"] == account), NOBODY)]

    def on_getCollateralInfo(self, at: bytes, to: str, account: int, collateral: str) -> Any:
        rows = self.tables(at)["account_balances"]
        net = [r["balance"] for r in rows if (r["account_id"], r["collateral"]) == (account, collateral.lower())]
        return ["int256"] * 3, [sum(net), 5, 6]

    def on_getUpdatedPositionInfo(self, at: bytes, to: str, market: int, account: int) -> Any:
        desk = self.desks[at]
        now = desk.position(market, account).updated(desk.markets[market])
        values = [now.base, now.realized, now.price, now.time, now.side.funding, now.side.multiplier, now.side.unwind]
        kinds = ["int256", "int256", "uint256", "uint256", "int256", "uint256", "uint256"]
        return ([*kinds, "int256", "uint128"], [*values, -7, 8]) if self.order_book else (kinds, values)

    def on_getMarketConfiguration(self, at: bytes, to: str, market: int) -> Any:
        count = 22 if self.order_book else 18
        values: list[Any] = [market * 1000 + n for n in range(count)]
        values[3] = bytes([market]) * 32
        return ["bytes32" if n == 3 else "uint256" for n in range(count)], values

    def on_getGlobalFeeParameters(self, at: bytes, to: str) -> Any:
        count = 8 if self.order_book else 6
        return ["uint256"] * count, [n * E18 // 100 for n in range(count)]

    def on_getAccountOwnerFeeConfiguration(self, at: bytes, to: str, owner: str) -> Any:
        return ["uint256", "bool", "bool", "bool"], [int(owner, 16) % 3, True, False, True]

    def on_getFeeTierParameters(self, at: bytes, to: str, tier: int) -> Any:
        return ["uint256"] * 3, [tier * 10**14, tier * 10**13, 0]

    def on_getSharePrice(self, at: bytes, to: str, pool: int) -> Any:
        return ["uint256"], [E18 + pool]

    def on_getPoolMarginBalance(self, at: bytes, to: str, pool: int) -> Any:
        return ["uint256"], [10**12 + pool]

    def on_name(self, at: bytes, to: str) -> Any:
        return ["string"], [f"Token {to[2:6]}"]

    def on_symbol(self, at: bytes, to: str) -> Any:
        return ["string"], [to[2:6].upper()]

    def on_decimals(self, at: bytes, to: str) -> Any:
        return ["uint8"], [6]
