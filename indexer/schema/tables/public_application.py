"""Application tables, which consumers join: created empty here, written by applications, never by a projection."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Double

from indexer.schema.tables.columns import application_table, numeric, text, timestamp


def _big(name: str, *, null: bool = True, key: bool = False) -> Column[Any]:
    # Without autoincrement=False a single integer key would become a serial, but the application assigns the ids.
    return Column(name, BigInteger, nullable=null and not key, primary_key=key, autoincrement=False)


conditional_orders = application_table(
    "ConditionalOrders",
    text("id", key=True),
    numeric("account_id", null=False),
    numeric("market_id", null=False),
    text("order_type", null=False),
    Column("is_long", Boolean, nullable=False),
    Column("trigger_price", Double, nullable=False),
    numeric("order_base", null=False),
    _big("exchange_id", null=False),
    text("inputs", null=False),
    _big("counterparty_account_id", null=False),
    _big("reya_chain_id", null=False),
    _big("deadline", null=False),
    text("signer_address", null=False),
    numeric("nonce", null=False),
    text("signature", null=False),
    text("status", null=False),
    _big("creation_timestamp_ms", null=False),
    _big("last_update_timestamp_ms", null=False),
    text("transaction_hash"),
)

bridge_transactions_margin_account = application_table(
    "BridgeTransactionsMarginAccount",
    _big("id", key=True),
    *(text(name) for name in ("transactionHash", "destinationTransactionHash", "walletAddress")),
    _big("sourceChainId"),
    _big("destinationChainId"),
    numeric("marginAccountId"),
    text("tokenAddress"),
    numeric("amount"),
    text("status"),
    _big("timestamp"),
)

bridge_transactions_pool = application_table(
    "BridgeTransactionsPool",
    _big("id", key=True),
    *(text(name) for name in ("transactionHash", "destinationTransactionHash", "walletAddress")),
    *(_big(name) for name in ("sourceChainId", "destinationChainId", "poolId")),
    numeric("amount"),
    text("status"),
    _big("timestamp"),
)

account_owner_configuration = application_table(
    "account_owner_configuration",
    text("owner_address", key=True),
    numeric("tier_id"),
    *(Column(name, Boolean) for name in ("og_status", "affiliate_status", "vltz_status")),
    numeric("block_timestamp"),
    numeric("block_number"),
    _big("unique_id"),
)

wallet_discord_link = application_table(
    "WalletDiscordLink",
    text("walletAddress", key=True),
    *(text(f"discord{name}") for name in ("Id", "Username", "Discriminator", "GlobalName", "Avatar")),
    *(text(name) for name in ("discordLocale", "discordEmail", "rank")),
    timestamp("createdAt"),
    timestamp("updatedAt"),
    timestamp("rankClaimedAt", null=True),
    text("tradingRank"),
)

wallet_details = application_table("WalletDetails", text("wallet", key=True), text("name"), text("type"))
