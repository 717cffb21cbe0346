"""View functions of the deployed contracts, called at one block given by hash (EIP-1898).

With a block number the answer could be from another fork. web3 only encodes and decodes. The call itself goes through
the reader, like every other one, because web3 would replace the hash with a number.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eth_abi.exceptions import DecodingError, EncodingError
from web3 import Web3

from indexer.errors import (
    IndexerError,
    RpcCallError,
    RpcError,
    StateUnavailableError,
    TransientRpcError,
    ViewUnansweredError,
)
from indexer.rpc.reader import Reader

_CODEC = Web3().codec
_WORD = 32
# Errors of the contract's execution, as geth and its derivatives word them. Some nodes do not say "revert".
_REVERTED = re.compile(r"revert|invalid opcode|out of gas|stack (?:under|over)flow|invalid jump", re.IGNORECASE)
_STATELESS = re.compile(r"header|block|trie|state|pruned|history", re.IGNORECASE)
MAX_CONCURRENT = 8  # concurrent calls; the pool limits the rate


class ContractView(NamedTuple):
    """A view function.

    `contract`: its name in the deployment, "" if the address is given with the call. `outputs`: static types,
    flattened, as many as are used: later contracts append fields to their structs. `least`: how many of them every
    generation returns; 0: all.
    """

    contract: str
    function: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    least: int = 0


# netDeposits, marginBalance, realBalance
COLLATERAL = ContractView("core", "getCollateralInfo", ("uint128", "address"), ("int256",) * 3)
OWNER = ContractView("core", "getAccountOwner", ("uint128",), ("address",))
# base, realizedPnL, last price and its time, fundingValue, baseMultiplier, adlUnwindPrice; all updated to the block
POSITION = ContractView(
    "passive_perp", "getUpdatedPositionInfo", ("uint128", "uint128"),
    ("int256", "int256", "uint256", "uint256", "int256", "uint256", "uint256"),
)  # fmt: skip
MARKET_CONFIGURATION = ContractView(
    "passive_perp", "getMarketConfiguration", ("uint128",),
    (*("uint256",) * 3, "bytes32", *("uint256",) * 14),
)  # fmt: skip
OWNER_FEES = ContractView(
    "passive_perp", "getAccountOwnerFeeConfiguration", ("address",), ("uint256", "bool", "bool", "bool")
)  # fmt: skip
# ogDiscount, refereeDiscount, referrerRebate, affiliateReferrerRebate, vltzDiscount, spreadDiscount; then poolRebate
GLOBAL_FEES = ContractView("passive_perp", "getGlobalFeeParameters", (), ("uint256",) * 7, 6)
TIER_FEES = ContractView("passive_perp", "getFeeTierParameters", ("uint256",), ("uint256",) * 2)
SHARE_PRICE = ContractView("passive_pool", "getSharePrice", ("uint128",), ("uint256",))
POOL_BALANCE = ContractView("passive_pool", "getPoolMarginBalance", ("uint128",), ("uint256",))
TOKEN_NAME, TOKEN_SYMBOL = (ContractView("", name, (), ("string",)) for name in ("name", "symbol"))
TOKEN_DECIMALS = ContractView("", "decimals", (), ("uint8",))


class Caller:
    """Calls views on one endpoint at one block. `calls` counts them.

    Args:
        reader: The endpoint.
        contracts: Addresses by contract name.
        number: The block, for error messages.
        block_hash: The block to call at.
    """

    def __init__(self, reader: Reader, contracts: Mapping[str, str], number: int, block_hash: bytes) -> None:
        self.reader, self.contracts, self.number = reader, contracts, number
        self._block = {"blockHash": "0x" + block_hash.hex(), "requireCanonical": True}
        self.calls = 0
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._serves_state: bool | None = None  # None: not known yet.

    async def call(self, view: ContractView, *arguments: Any, address: str = "") -> tuple[Any, ...]:
        """Return the decoded outputs, addresses in lower case.

        `address`: the contract to call if the view does not name one. Raises ViewUnansweredError,
        StateUnavailableError if the endpoint does not keep the state of this block, and other RpcErrors.
        """
        to = address or self.contracts.get(view.contract, "")
        if not to:
            raise ViewUnansweredError(f"the deployment has no contract named {view.contract}")
        data = encode_call(view, arguments)
        async with self._slots:
            self.calls += 1
            try:
                answer = await self.reader.endpoint.call("eth_call", [{"to": to, "data": data}, self._block])
            except (RpcCallError, TransientRpcError) as error:
                raise await self._view_error(view, error) from error
        self._serves_state = True
        return decode_answer(view, answer)

    async def _view_error(self, view: ContractView, error: RpcError) -> IndexerError:
        """Return what a refusal means: whether it is about this view or about the block shows another call."""
        if _REVERTED.search(error.message):
            return ViewUnansweredError(f"{view.function}: {error.message}")
        if isinstance(error, TransientRpcError) and not _STATELESS.search(error.message):
            return error
        if isinstance(error, RpcCallError) and await self._answers_at_block():
            return ViewUnansweredError(f"{view.function}: {error.message}")
        return StateUnavailableError(
            f"does not serve the state of block {self.number}: {error.message}",
            self.reader.name,
            "Name an archive node in --rpc-url, or let `run` come nearer to the head: newer states are kept",
        )

    async def _answers_at_block(self) -> bool:
        """Return whether a call that no contract can refuse is answered at the block; asked for once."""
        if self._serves_state is None:
            try:
                nobody = {"to": "0x" + "00" * 20, "data": "0x"}
                await self.reader.endpoint.call("eth_call", [nobody, self._block])
            except RpcError:
                self._serves_state = False
            else:
                self._serves_state = True
        return self._serves_state


def encode_call(view: ContractView, arguments: Sequence[Any]) -> str:
    """Return calldata (0x hex). Raises ViewUnansweredError for an invalid argument: an application may write keys."""
    selector = Web3.keccak(text=f"{view.function}({','.join(view.inputs)})")[:4]
    try:
        return "0x" + (selector + _CODEC.encode(view.inputs, arguments)).hex()
    except EncodingError as error:
        raise ViewUnansweredError(f"{view.function}: cannot be called: {error}") from error


def decode_answer(view: ContractView, answer: Any) -> tuple[Any, ...]:
    """Decode the outputs, fewer for older structs. Raises ViewUnansweredError if the answer does not match."""
    try:
        data = bytes.fromhex(answer.removeprefix("0x"))
        types = view.outputs
        if "string" not in types:
            types = types[: max(view.least or len(types), min(len(types), len(data) // _WORD))]
        values = _CODEC.decode(types, data)
    except (AttributeError, TypeError, ValueError, OverflowError, DecodingError) as error:
        raise ViewUnansweredError(f"{view.function}: unexpected answer: {answer!r:.80}") from error
    return tuple(v.lower() if t == "address" else v for t, v in zip(types, values, strict=True))
