"""The work of `enrich`: read state that logs do not contain from the contracts' views, at one final block.

Only published view functions of the deployed contracts are called. Answers go to public columns whose meaning is
proven, all others to the schema `indexer`. Past state (such as the margin ratio at a liquidation) is not read: no view
returns it afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from indexer.config import Deployment
from indexer.contracts import views
from indexer.contracts.views import Caller
from indexer.db.connection import Connection
from indexer.errors import UnstorableAnswerError, ViewUnansweredError, printable
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.runtime.exact_json import to_json
from indexer.runtime.tasks import run_all
from indexer.store import enrichment
from indexer.store.enrichment import EnrichmentRun

BATCH_KEYS = 25  # targets read and written together
Values = dict[str, Any]
Ask = Callable[[Caller, Mapping[str, Any]], Awaitable[Values]]

_MARKET_COLUMNS = (
    "risk_matrix_index", "max_open_base", "velocity_multiplier", "oracle_node_id", "mtm_window", "dutch_config_lambda",
    "dutch_config_min_base", "slippage_params_phi", "slippage_params_beta", "minimum_order_base", "base_spacing",
    "price_spacing", "depth_factor", "max_exposure_factor", "max_p_slippage", "", "price_spread",
    "volatility_index_multiplier",
)  # fmt: skip
_GLOBAL_COLUMNS = (
    "og_discount", "referee_discount", "referrer_rebate", "affiliate_referrer_rebate", "vltz_discount", "",
    "pool_rebate",
)  # fmt: skip
_POSITION_VALUES = (
    "base", "realized_pnl", "last_price", "last_price_timestamp", "funding_value", "base_multiplier",
    "adl_unwind_price",
)  # fmt: skip


def _named(columns: Sequence[str], values: Iterable[Any]) -> Values:
    """Return values by column; values whose column is "" are left out."""
    return {c: "0x" + v.hex() if isinstance(v, bytes) else v for c, v in zip(columns, values, strict=False) if c}


async def _market(caller: Caller, key: Mapping[str, Any]) -> Values:
    return _named(_MARKET_COLUMNS, await caller.call(views.MARKET_CONFIGURATION, key["market_id"]))


async def _fees(caller: Caller, key: Mapping[str, Any]) -> Values:
    return _named(_GLOBAL_COLUMNS, await caller.call(views.GLOBAL_FEES))


async def _owner(caller: Caller, key: Mapping[str, Any]) -> Values:
    names = ("tier_id", "og_status", "affiliate_status", "vltz_status")
    return _named(names, await caller.call(views.OWNER_FEES, key["owner_address"]))


async def _tier(caller: Caller, key: Mapping[str, Any]) -> Values:
    return _named(("taker_fee", "maker_fee"), await caller.call(views.TIER_FEES, key["tier_id"]))


async def _pool(caller: Caller, key: Mapping[str, Any]) -> Values:
    (price,) = await caller.call(views.SHARE_PRICE, key["pool_id"])
    (balance,) = await caller.call(views.POOL_BALANCE, key["pool_id"])
    return {"share_price": str(price), "margin_balance": str(balance)}


async def _token(caller: Caller, key: Mapping[str, Any]) -> Values:
    questions = {"name": views.TOKEN_NAME, "symbol": views.TOKEN_SYMBOL, "decimals": views.TOKEN_DECIMALS}
    answers = {column: (await caller.call(view, address=key["address"]))[0] for column, view in questions.items()}
    return {column: printable(value) if isinstance(value, str) else value for column, value in answers.items()}


async def _position(caller: Caller, key: Mapping[str, Any]) -> Values:
    answer = await caller.call(views.POSITION, key["market_id"], key["account_id"])
    return {name: str(value) for name, value in zip(_POSITION_VALUES, answer, strict=True)}


class EnrichKind(NamedTuple):
    """One kind of state to read.

    `table`: the public table, or a name of our own for values without a public column. `query`: selects the keys.
    `ask`: reads one key's values with `calls` calls.
    """

    table: str
    query: str
    ask: Ask
    calls: int = 1


# The order matters: the tiers to read are those that the owners' rows name.
KINDS: dict[str, EnrichKind] = {
    "markets": EnrichKind("market_configuration", "SELECT market_id FROM public.market_storage_finalized", _market),
    "fees": EnrichKind(
        "global_fee_parameters", "SELECT 1 AS id WHERE EXISTS (SELECT FROM public.market_storage)", _fees
    ),
    "owners": EnrichKind(
        "account_owner_configuration",
        "SELECT DISTINCT new_owner AS owner_address FROM public.account_owner_updated_snapshot_finalized"
        " WHERE new_owner IS NOT NULL",
        _owner,
    ),
    "tiers": EnrichKind(
        "fee_tier_parameters",
        "SELECT DISTINCT tier_id FROM public.account_owner_configuration WHERE tier_id IS NOT NULL",
        _tier,
    ),
    "pools": EnrichKind("pool", "SELECT pool_id FROM public.pool_created_finalized", _pool, 2),
    "tokens": EnrichKind(
        "token",
        'SELECT address FROM public."Asset_finalized" UNION SELECT DISTINCT token FROM public.token_transfer_finalized',
        _token,
        3,
    ),
    # Positions whose last event was a bare match order, which states no position.
    "positions": EnrichKind(
        "position", "SELECT market_id, account_id FROM public.positions_finalized WHERE realized_pnl IS NULL", _position
    ),
}


async def missing_keys(conn: Connection, kind: EnrichKind, have: set[tuple[str, str]]) -> list[Values]:
    """Return the keys of a kind that are not in `have`, the (table, key as JSON text) pairs already read."""
    rows = await conn.fetch(f"SELECT to_jsonb(k)::text AS text, k.* FROM ({kind.query}) k ORDER BY 1")
    return [
        {name: value for name, value in row.items() if name != "text"}
        for row in rows
        if (kind.table, row["text"]) not in have
    ]


@dataclass(slots=True)
class EnrichResult:
    """Result of a run. `left_alone`: rows that an application wrote or changed. `left`: targets not read yet."""

    run: EnrichmentRun
    calls: int = 0
    written: Counter[str] = field(default_factory=Counter)
    left_alone: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    left: int = 0


class Enrichment:
    """One run of `enrich`.

    Args:
        deployment: Its contracts name the addresses to call.
        pool: The endpoints.
        conn: Connection to select keys and write answers on.
        kinds: Names in KINDS.
        max_calls: Maximum number of calls.
        on_progress: Called with (kind, targets done, targets).
    """

    def __init__(
        self, deployment: Deployment, pool: Pool, conn: Connection, kinds: Sequence[str], max_calls: int,
        on_progress: Callable[[str, int, int], None],
    ) -> None:  # fmt: skip
        self.pool, self.conn, self.max_calls, self._on_progress = pool, conn, max_calls, on_progress
        self.kinds = [(name, kind) for name, kind in KINDS.items() if name in kinds]
        self._contracts = {c.name: c.address for c in deployment.contracts}

    async def run(self, run: EnrichmentRun) -> EnrichResult:
        """Read everything that was not yet read at the run's block, within the call budget.

        Answers are committed as they are written, so that an interrupted run is continued by the next one. Raises
        StateUnavailableError, RpcError, RefusedError.
        """
        if not run.resumed:
            await enrichment.begin(self.conn, run)
        result, have = EnrichResult(run), await enrichment.already_read(self.conn, run)
        for name, kind in self.kinds:
            missing = await missing_keys(self.conn, kind, have)
            for at in range(0, len(missing), BATCH_KEYS):
                keys = missing[at : at + min(BATCH_KEYS, max(0, self.max_calls - result.calls) // kind.calls)]
                if not keys:
                    result.left += len(missing) - at
                    break
                await self._batch(kind, keys, result)
                self._on_progress(name, at + len(keys), len(missing))
                if len(keys) < min(BATCH_KEYS, len(missing) - at):
                    result.left += len(missing) - at - len(keys)
                    break
        if not result.left:
            await enrichment.finish(self.conn)
        return result

    async def _batch(self, kind: EnrichKind, keys: Sequence[Values], result: EnrichResult) -> None:
        async def ask(reader: Reader) -> list[tuple[Values, Values | ViewUnansweredError]]:
            caller = Caller(reader, self._contracts, result.run.number, result.run.hash)
            answers: list[tuple[Values, Values | ViewUnansweredError]] = []

            async def ask_key(key: Values) -> None:
                try:
                    answers.append((key, await kind.ask(caller, key)))
                except ViewUnansweredError as error:
                    answers.append((key, error))

            try:
                await run_all(*(ask_key(key) for key in keys))
            finally:  # Calls count against the budget even if they failed.
                result.calls += caller.calls
            return answers

        for key, answer in await self.pool.with_failover(ask):
            subject = f"{kind.table} {to_json(key)}"
            try:
                if isinstance(answer, ViewUnansweredError):
                    raise answer
                if await enrichment.save(self.conn, kind.table, key, answer, result.run):
                    result.written[kind.table] += 1
                else:
                    result.left_alone.append(subject)
            except (ViewUnansweredError, UnstorableAnswerError) as error:
                result.unanswered.append(f"{subject}: {error.message}")
