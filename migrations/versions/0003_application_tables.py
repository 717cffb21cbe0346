"""The tables that an application writes and consumers join: created empty in `public`, never written by the indexer.

Revision: 0003, after 0002. Written out in full and never edited after a release: history must not follow the metadata.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

from indexer.errors import IndexerError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = (
    "ConditionalOrders",
    "BridgeTransactionsMarginAccount",
    "BridgeTransactionsPool",
    "account_owner_configuration",
    "WalletDiscordLink",
    "WalletDetails",
)


def nums(*names: str, null: bool = True) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Numeric(78, 0), nullable=null) for name in names]


def texts(*names: str, null: bool = True) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text(), nullable=null) for name in names]


def bigs(*names: str, null: bool = True) -> list[sa.Column[Any]]:
    # A lone integer key would become a serial: these ids are the application's to give.
    return [sa.Column(name, sa.BigInteger(), nullable=null, autoincrement=False) for name in names]


def booleans(*names: str, null: bool = True) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Boolean(), nullable=null) for name in names]


def times(*names: str, null: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, pg.TIMESTAMP(precision=3), nullable=null) for name in names]


def table(name: str, *columns: sa.Column[Any], key: str) -> None:
    op.create_table(name, *columns, sa.PrimaryKeyConstraint(key))


def upgrade() -> None:
    _orders()
    _bridges()
    _wallets()


def downgrade() -> None:
    bind = op.get_bind()
    for name in TABLES:
        # Locked before the look: a row that the application writes meanwhile must not go with the table.
        op.execute(f'LOCK TABLE public."{name}" IN ACCESS EXCLUSIVE MODE')
        if bind.scalar(sa.text(f'SELECT EXISTS (SELECT FROM public."{name}")')):
            raise IndexerError(
                f'public."{name}" holds rows that an application wrote: the downgrade would drop them',
                "Copy them elsewhere and empty the table; nothing was changed",
            )
    for name in TABLES:
        op.drop_table(name)


def _orders() -> None:
    table(
        "ConditionalOrders",
        *texts("id", null=False),
        *nums("account_id", "market_id", null=False),
        *texts("order_type", null=False),
        *booleans("is_long", null=False),
        sa.Column("trigger_price", sa.Double(), nullable=False),
        *nums("order_base", null=False),
        *bigs("exchange_id", null=False),
        *texts("inputs", null=False),
        *bigs("counterparty_account_id", "reya_chain_id", "deadline", null=False),
        *texts("signer_address", null=False),
        *nums("nonce", null=False),
        *texts("signature", "status", null=False),
        *bigs("creation_timestamp_ms", "last_update_timestamp_ms", null=False),
        *texts("transaction_hash"),
        key="id",
    )


def _bridges() -> None:
    table(
        "BridgeTransactionsMarginAccount",
        *bigs("id", null=False),
        *texts("transactionHash", "destinationTransactionHash", "walletAddress"),
        *bigs("sourceChainId", "destinationChainId"),
        *nums("marginAccountId"),
        *texts("tokenAddress"),
        *nums("amount"),
        *texts("status"),
        *bigs("timestamp"),
        key="id",
    )
    table(
        "BridgeTransactionsPool",
        *bigs("id", null=False),
        *texts("transactionHash", "destinationTransactionHash", "walletAddress"),
        *bigs("sourceChainId", "destinationChainId", "poolId"),
        *nums("amount"),
        *texts("status"),
        *bigs("timestamp"),
        key="id",
    )


def _wallets() -> None:
    table(
        "account_owner_configuration",
        *texts("owner_address", null=False),
        *nums("tier_id"),
        *booleans("og_status", "affiliate_status", "vltz_status"),
        *nums("block_timestamp", "block_number"),
        *bigs("unique_id"),
        key="owner_address",
    )
    table(
        "WalletDiscordLink",
        *texts("walletAddress", null=False),
        *texts("discordId", "discordUsername", "discordDiscriminator", "discordGlobalName", "discordAvatar"),
        *texts("discordLocale", "discordEmail", "rank"),
        *times("createdAt", "updatedAt"),
        *times("rankClaimedAt", null=True),
        *texts("tradingRank"),
        key="walletAddress",
    )
    op.create_index("WalletDiscordLink_discordId_idx", "WalletDiscordLink", ["discordId"])
    table("WalletDetails", *texts("wallet", null=False), *texts("name", "type"), key="wallet")
