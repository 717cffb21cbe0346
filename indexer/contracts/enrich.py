"""`enrich`: state that logs cannot give, asked of the contracts' views at one final block.

Only what a published view function of the deployed contracts answers, and only in columns whose meaning is proven;
other answers go to our own schema. What is history (a margin ratio at a liquidation) is not asked for: no view tells it
afterwards.
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

BATCH_KEYS = 25  # targets asked for and written together
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
    """Values by column; those without one are left out."""
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
    said = {word: (await caller.call(view, address=key["address"]))[0] for word, view in questions.items()}
    return {word: printable(value) if isinstance(value, str) else value for word, value in said.items()}


async def _position(caller: Caller, key: Mapping[str, Any]) -> Values:
    said = await caller.call(views.POSITION, key["market_id"], key["account_id"])
    return {name: str(value) for name, value in zip(_POSITION_VALUES, said, strict=True)}


class EnrichKind(NamedTuple):
    """`table`: the public table, or our own word. `query`: the keys to ask for. `calls` for each."""

    table: str
    query: str
    ask: Ask
    calls: int = 1


# In order: the tiers are those of the owners.
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
    # Positions whose last event was a bare match order: nothing states them.
    "positions": EnrichKind(
        "position", "SELECT market_id, account_id FROM public.positions_finalized WHERE realized_pnl IS NULL", _position
    ),
}


async def missing_keys(conn: Connection, kind: EnrichKind, have: set[tuple[str, str]]) -> list[Values]:
    """The keys of a kind that were not read yet."""
    rows = await conn.fetch(f"SELECT to_jsonb(k)::text AS text, k.* FROM ({kind.query}) k ORDER BY 1")
    return [
        {name: value for name, value in row.items() if name != "text"}
        for row in rows
        if (kind.table, row["text"]) not in have
    ]


@dataclass(slots=True)
class EnrichResult:
    """`kept`: rows that an application wrote or changed and that were left alone. `left`: targets not asked for yet."""

    run: EnrichmentRun
    calls: int = 0
    written: Counter[str] = field(default_factory=Counter)
    left_alone: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    left: int = 0


class Enrichment:
    """One command's work. `most`: calls that may be made. `tell` hears (kind, targets done, targets)."""

    def __init__(
        self, deployment: Deployment, pool: Pool, conn: Connection, kinds: Sequence[str], most: int,
        tell: Callable[[str, int, int], None],
    ) -> None:  # fmt: skip
        self.pool, self.conn, self.most, self._tell = pool, conn, most, tell
        self.kinds = [(name, kind) for name, kind in KINDS.items() if name in kinds]
        self._contracts = {c.name: c.address for c in deployment.contracts}

    async def run(self, run: EnrichmentRun) -> EnrichResult:
        """Asks for everything that was not read at the run's block yet, as far as the budget goes. Each batch is
        committed with its answers: interrupted, the next run goes on. Raises StateUnavailableError, RpcError,
        RefusedError."""
        if not run.resumed:
            await enrichment.begin(self.conn, run)
        done, have = EnrichResult(run), await enrichment.already_read(self.conn, run)
        for name, kind in self.kinds:
            todo = await missing_keys(self.conn, kind, have)
            for at in range(0, len(todo), BATCH_KEYS):
                part = todo[at : at + min(BATCH_KEYS, max(0, self.most - done.calls) // kind.calls)]
                if not part:
                    done.left += len(todo) - at
                    break
                await self._batch(kind, part, done)
                self._tell(name, at + len(part), len(todo))
                if len(part) < min(BATCH_KEYS, len(todo) - at):
                    done.left += len(todo) - at - len(part)
                    break
        if not done.left:
            await enrichment.finish(self.conn)
        return done

    async def _batch(self, kind: EnrichKind, keys: Sequence[Values], done: EnrichResult) -> None:
        async def ask(reader: Reader) -> list[tuple[Values, Values | ViewUnansweredError]]:
            caller = Caller(reader, self._contracts, done.run.number, done.run.hash)
            answers: list[tuple[Values, Values | ViewUnansweredError]] = []

            async def one(key: Values) -> None:
                try:
                    answers.append((key, await kind.ask(caller, key)))
                except ViewUnansweredError as error:
                    answers.append((key, error))

            try:
                await run_all(*(one(key) for key in keys))
            finally:  # asked in vain they were asked
                done.calls += caller.calls
            return answers

        for key, answer in await self.pool.with_failover(ask):
            subject = f"{kind.table} {to_json(key)}"
            try:
                if isinstance(answer, ViewUnansweredError):
                    raise answer
                if await enrichment.save(self.conn, kind.table, key, answer, done.run):
                    done.written[kind.table] += 1
                else:
                    done.left_alone.append(subject)
            except (ViewUnansweredError, UnstorableAnswerError) as error:
                done.unanswered.append(f"{subject}: {error.message}")
