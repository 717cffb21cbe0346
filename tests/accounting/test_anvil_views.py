"""The calls as a real node takes them: by a block's hash, with structs, strings and reverts as Solidity makes them."""

from __future__ import annotations

import pytest

from indexer.contracts import views
from indexer.contracts.views import Caller
from indexer.errors import StateUnavailableError, ViewUnansweredError
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from tests.support.anvil.compiler import contracts
from tests.support.anvil.node import AnvilNode

CORE, PERP, TOKEN = ("0x" + digit * 40 for digit in "abc")


async def test_views_are_called_at_a_blocks_hash() -> None:
    with AnvilNode() as node:
        for address in (CORE, PERP, TOKEN):
            node.rpc("anvil_setCode", address, contracts()["Views"][1])
        node.mine(3)
        number = node.head()[0]
        block_hash = bytes.fromhex(node.block(number - 1)["hash"][2:])
        pool = Pool([node.url], 1729)

        async def ask(reader: Reader) -> None:
            caller = Caller(reader, {"core": CORE, "passive_perp": PERP}, number - 1, block_hash)
            assert await caller.call(views.OWNER, 0xBEEF) == ("0x" + "00" * 18 + "beef",)
            assert await caller.call(views.COLLATERAL, 7, TOKEN) == (-7, number - 1, 3)  # of that block, not the latest
            assert await caller.call(views.POSITION, 1, 2) == (-1, 2, 3, 4, -5, 6, 7)
            assert await caller.call(views.TOKEN_NAME, address=TOKEN) == ("Reya’s dollar",)
            with pytest.raises(ViewUnansweredError, match="AccountNotFound"):
                await caller.call(views.OWNER, 0)
            with pytest.raises(ViewUnansweredError, match="no contract named passive_pool"):
                await caller.call(views.SHARE_PRICE, 1)
            with pytest.raises(ViewUnansweredError, match="unexpected answer"):  # nothing is deployed there
                await caller.call(views.TOKEN_DECIMALS, address="0x" + "d" * 40)
            other = Caller(reader, {"core": CORE}, number, b"\x11" * 32)
            with pytest.raises(StateUnavailableError, match="does not serve the state of block"):
                await other.call(views.OWNER, 1)

        try:
            await pool.with_failover(ask)
        finally:
            await pool.close()
