"""All views: their SQL, in creation order, and their columns."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, MetaData, Numeric, Table

from indexer.schema.tables.columns import numeric, numerics, text, timestamp
from indexer.schema.tables.metadata import public
from indexer.schema.views import finality_views, market_views, statistics_views
from indexer.schema.views.finality_views import split

# In creation order.
VIEWS: dict[str, str] = market_views.VIEWS | statistics_views.VIEWS | finality_views.views()


def _floats(*names: str) -> list[Column[float]]:
    return [Column(name, Double, nullable=False) for name in names]


def _statistics(*, fourteen_days: bool = False) -> list[Column[object]]:
    last = [Column("volume_14d", Numeric)] if fourteen_days else []
    return [
        Column("volume", Numeric),
        *last,
        Column("number_of_trades", BigInteger),
        Column("realized_pnl", Numeric),
        Column("fees", Numeric),
        timestamp("updated_at", null=True),
    ]


def _named(views: MetaData) -> None:
    Table(
        "trades", views, text("id", key=True), *numerics("market_id", "account_id", "base", "price", "fee"),
        text("transaction_hash", null=False), numeric("block_timestamp"), numeric("block_number", null=False),
        Column("unique_id", BigInteger),
    )  # fmt: skip
    Table(
        "Market", views, numeric("id", key=True), text("ticker", null=False), *_floats("markPrice"),
        Column("isActive", Boolean, nullable=False),
        *_floats("maxLeverage", "volume24H", "priceChange24H", "longOI", "shortOI", "availableLong"),
        *_floats("availableShort", "marketPriceDeviation"),
        *(Column(name, Integer, nullable=False) for name in ("riskBlockId", "rootCollateralPoolId")),
        *(text(name, null=False) for name in ("description", "name", "quoteTokenId")),
        Column("tickSizeDecimals", Integer, nullable=False), text("underlyingAssetId", null=False),
        *_floats("priceChange24HPercentage", "openInterest", "fundingRate"),
        Column("priority", Integer, nullable=False),
    )  # fmt: skip
    Table("trading_stats_account", views, numeric("account_id", key=True), *_statistics())
    Table(
        "trading_stats_account_market", views, numeric("account_id", key=True), numeric("market_id", key=True),
        *_statistics(),
    )  # fmt: skip
    Table("trading_stats_wallet", views, text("wallet_address", key=True), *_statistics(fourteen_days=True))
    Table(
        "account_collateral_net_balance", views, numeric("account_id", key=True), text("collateral", key=True),
        *numerics("net_balance", "block_timestamp"),
    )  # fmt: skip
    Table("order_with_vol_price_impact", views, text("id", key=True), *numerics("vol_price_impact", "block_timestamp"))


def view_columns() -> MetaData:
    """Return every view in VIEWS with its columns. Raises KeyError for one described neither here nor by its table."""
    views = MetaData()
    _named(views)
    for name in VIEWS:
        if name not in views.tables:
            public.tables[split(name)[0]].to_metadata(views, name=name)
    return views
