"""pool_price_snapshot and pool_price_history: the pool's price as PoolPSlippageUpdated gives it (1e18).

The pool's price is the oracle's price times one plus the premium. The history keeps the last log of a block.
"""

from __future__ import annotations

from collections.abc import Iterable

from indexer.projections.accounting import E18, trunc_div
from indexer.projections.events import Event, Row, StateKey, Transaction
from indexer.projections.write_set import WriteSet

EVENTS = ("PoolPSlippageUpdated",)


def keys(event: Event) -> Iterable[StateKey]:
    """Yield the market's snapshot row and the history row of the block."""
    market = event.args["marketId"]
    yield "pool_price_snapshot", (market,)
    yield "pool_price_history", (market, event.block_number)


def apply(write_set: WriteSet, tx: Transaction, event: Event) -> None:
    """Write the market's snapshot row and the history row of the block."""
    market, oracle = event.args["marketId"], event.args["oraclePrice"]
    row: Row = {
        "market_id": market,
        "pool_price": oracle + trunc_div(oracle * event.args["premiumIndex"], E18),
        "oracle_price": oracle,
        "block_timestamp": event.time,
        "block_number": event.block_number,
    }
    write_set.put("pool_price_snapshot", (market,), row, event)
    write_set.put("pool_price_history", (market, event.block_number), row, event)
