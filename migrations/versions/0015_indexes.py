"""Two indexes less: no query that consumers published reads by them, nor does the indexer.

Revision: 0015, after 0014. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DROP INDEX public.orders_event_sequence_number_idx")
    op.execute('DROP INDEX public."WalletDiscordLink_discordId_idx"')


def downgrade() -> None:
    op.execute("CREATE INDEX orders_event_sequence_number_idx ON public.orders (event_sequence_number)")
    op.execute('CREATE INDEX "WalletDiscordLink_discordId_idx" ON public."WalletDiscordLink" ("discordId")')
