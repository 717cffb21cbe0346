"""Positions with their entry prices and sessions.

Revision: 0010, after 0009. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

UPGRADE = (
    """CREATE TABLE public.positions (
      market_id numeric(78,0) NOT NULL,
      account_id numeric(78,0) NOT NULL,
      base numeric(78,0),
      realized_pnl numeric(78,0),
      last_price numeric(78,0),
      last_price_timestamp numeric(78,0),
      funding_value numeric(78,0),
      base_multiplier numeric(78,0),
      adl_unwind_price numeric(78,0),
      average_entry_price numeric(78,0),
      average_entry_funding_value numeric(78,0),
      session numeric(78,0),
      last_trade_sequence_number numeric(78,0),
      transaction_hash text,
      block_timestamp numeric(78,0),
      block_number numeric(78,0),
      unique_id bigint,
      CONSTRAINT positions_pkey PRIMARY KEY (market_id, account_id)
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000)""",
    "CREATE INDEX positions_account_id_idx ON public.positions (account_id)",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE public.positions")
