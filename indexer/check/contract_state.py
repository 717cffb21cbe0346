"""Comparison of sampled owners, collateral and positions with the contracts' own views at a final block.

The rows are as of the last finalized block in the tables, and the views are called at that block's hash.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from indexer.check.position_math import E18, trunc_div
from indexer.check.position_replay import Drift
from indexer.config import Deployment
from indexer.contracts import views
from indexer.contracts.views import Caller
from indexer.db.connection import Connection
from indexer.errors import ViewUnansweredError
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.runtime.tasks import run_all
from indexer.store.enrichment import pin_block

_SAMPLES = {
    "owners": "SELECT account_id, new_owner FROM public.account_owner_updated_snapshot_finalized",
    "collateral": "SELECT account_id, collateral, balance FROM public.account_balances_finalized",
    "positions": "SELECT * FROM public.positions_finalized",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Sampled rows by kind, as of block `number` with hash `hash`."""

    number: int
    hash: bytes
    rows: dict[str, list[dict[str, Any]]]


@dataclass(slots=True)
class Answers:
    """Result of a comparison. `unanswered`: one line per view call that a contract refused."""

    compared: int = 0
    drifts: list[Drift] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


async def draw_sample(conn: Connection, limit: int) -> Sample:
    """Return up to `limit` random rows of each kind, read in the caller's snapshot."""
    at = await pin_block(conn)
    rows = {
        kind: [dict(row) for row in await conn.fetch(f"SELECT * FROM ({query}) r ORDER BY random() LIMIT {int(limit)}")]
        for kind, query in _SAMPLES.items()
    }
    return Sample(at.number, at.hash, rows)


async def compare(deployment: Deployment, pool: Pool, sample: Sample, on_progress: Callable[[], None]) -> Answers:
    """Compare a sample with the contracts' views, all calls to one endpoint; on failure, try the next endpoint.

    Args:
        deployment: Its contracts name the addresses to call.
        pool: The endpoints.
        sample: The rows to compare, and the block to call at.
        on_progress: Called after each row.

    Raises:
        StateUnavailableError: No endpoint serves the state of the sample's block.
        RpcError: The endpoints failed otherwise.
    """
    contracts = {c.name: c.address for c in deployment.contracts}
    questions: list[tuple[str, Mapping[str, Any]]] = [(kind, row) for kind, rows in sample.rows.items() for row in rows]

    async def ask(reader: Reader) -> Answers:
        caller, answers = Caller(reader, contracts, sample.number, sample.hash), Answers()

        async def check_row(kind: str, row: Mapping[str, Any]) -> None:
            try:
                detail = await _CHECKS[kind](caller, row)
            except ViewUnansweredError as error:
                answers.unanswered.append(f"{kind}: {_subject(row)}: {error.message}")
            else:
                answers.compared += 1
                if detail:
                    answers.drifts.append(Drift(f"{kind} as the contracts say", _subject(row), detail))
            on_progress()

        await run_all(*(check_row(kind, row) for kind, row in questions))
        answers.drifts.sort()
        return answers

    return await pool.with_failover(ask)


def _subject(row: Mapping[str, Any]) -> str:
    return " ".join(str(row[name]) for name in ("market_id", "account_id", "collateral") if name in row)


async def _owner(caller: Caller, row: Mapping[str, Any]) -> str:
    (owner,) = await caller.call(views.OWNER, row["account_id"])
    return "" if owner == row["new_owner"] else f"new_owner {row['new_owner']}, the contract says {owner}"


async def _collateral(caller: Caller, row: Mapping[str, Any]) -> str:
    net, _, _ = await caller.call(views.COLLATERAL, row["account_id"], row["collateral"])
    return "" if net == row["balance"] else f"balance {row['balance']}, the contract says {net}"


async def _position(caller: Caller, row: Mapping[str, Any]) -> str:
    return position_detail(row, await caller.call(views.POSITION, row["market_id"], row["account_id"]))


_CHECKS: dict[str, Callable[[Caller, Mapping[str, Any]], Awaitable[str]]] = {
    "owners": _owner,
    "collateral": _collateral,
    "positions": _position,
}


def position_detail(row: Mapping[str, Any], answer: Sequence[int]) -> str:
    """Say how a row of `positions` differs from `answer`, the contract's position updated to that block; "" if equal.

    Deleveraging since the row's last event shrinks the base; price and funding since then move realized PnL.
    """
    base, realized, price, _, funding, multiplier, _ = answer
    live = row["base"]
    if row["base_multiplier"] and multiplier < row["base_multiplier"]:
        live = trunc_div(row["base"] * multiplier, row["base_multiplier"])
    tolerance = abs(row["base"]) // E18 + 4
    if abs(base - live) > tolerance:
        return f"base {row['base']}, {live} by now, the contract says {base}"
    if live != row["base"] or row["realized_pnl"] is None or row["last_price"] is None or not multiplier:
        return ""
    expected = row["realized_pnl"] + trunc_div(live * (price - row["last_price"]), E18)
    expected -= trunc_div(live * (funding - row["funding_value"]), multiplier)
    if abs(realized - expected) > tolerance:
        return f"realized_pnl {row['realized_pnl']}, {expected} by now, the contract says {realized}"
    return ""
