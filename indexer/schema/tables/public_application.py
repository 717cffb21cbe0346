"""Application tables, which consumers join: created empty here, written by applications, never by a projection."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Double, MetaData

from indexer.schema.tables.columns import application_table, bigint, numeric, text, timestamp


def add(metadata: MetaData) -> None:
    """Add the tables of this family."""
    _orders(metadata)
    _bridge(metadata)
    _owners_and_wallets(metadata)


def _orders(metadata: MetaData) -> None:
    application_table(
        "ConditionalOrders",
        metadata,
        text("id", key=True),
        numeric("account_id", null=False),
        numeric("market_id", null=False),
        text("order_type", null=False),
        Column("is_long", Boolean, nullable=False),
        Column("trigger_price", Double, nullable=False),
        numeric("order_base", null=False),
        bigint("exchange_id", null=False),
        text("inputs", null=False),
        bigint("counterparty_account_id", null=False),
        bigint("reya_chain_id", null=False),
        bigint("deadline", null=False),
        text("signer_address", null=False),
        numeric("nonce", null=False),
        text("signature", null=False),
        text("status", null=False),
        bigint("creation_timestamp_ms", null=False),
        bigint("last_update_timestamp_ms", null=False),
        text("transaction_hash"),
    )


def _bridge(metadata: MetaData) -> None:
    application_table(
        "BridgeTransactionsMarginAccount",
        metadata,
        bigint("id", key=True),
        *(text(name) for name in ("transactionHash", "destinationTransactionHash", "walletAddress")),
        bigint("sourceChainId"),
        bigint("destinationChainId"),
        numeric("marginAccountId"),
        text("tokenAddress"),
        numeric("amount"),
        text("status"),
        bigint("timestamp"),
    )
    application_table(
        "BridgeTransactionsPool",
        metadata,
        bigint("id", key=True),
        *(text(name) for name in ("transactionHash", "destinationTransactionHash", "walletAddress")),
        *(bigint(name) for name in ("sourceChainId", "destinationChainId", "poolId")),
        numeric("amount"),
        text("status"),
        bigint("timestamp"),
    )


def _owners_and_wallets(metadata: MetaData) -> None:
    application_table(
        "account_owner_configuration",
        metadata,
        text("owner_address", key=True),
        numeric("tier_id"),
        *(Column(name, Boolean) for name in ("og_status", "affiliate_status", "vltz_status")),
        numeric("block_timestamp"),
        numeric("block_number"),
        bigint("unique_id"),
    )
    application_table(
        "WalletDiscordLink",
        metadata,
        text("walletAddress", key=True),
        *(text(f"discord{name}") for name in ("Id", "Username", "Discriminator", "GlobalName", "Avatar")),
        *(text(name) for name in ("discordLocale", "discordEmail", "rank")),
        timestamp("createdAt"),
        timestamp("updatedAt"),
        timestamp("rankClaimedAt", null=True),
        text("tradingRank"),
    )
    application_table("WalletDetails", metadata, text("wallet", key=True), text("name"), text("type"))
