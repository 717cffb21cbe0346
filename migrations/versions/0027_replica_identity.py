"""Every table of ours can be published, and a new partition of the raw logs waits for no reader.

`coverage` has no key: its ranges are kept apart by an exclusion constraint, which no publication accepts. PostgreSQL
then refuses to update or delete its rows while any publication is FOR ALL TABLES.

CREATE TABLE ... PARTITION OF locks the whole table against readers: a dump that reads it stops the indexer, and whoever
comes later waits behind both. ATTACH PARTITION does not.

Revision: 0027. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# As in 0016: the writing role owns nothing, the lock keeps two processes apart, and the search path is fixed.
HEAD = """
CREATE OR REPLACE FUNCTION indexer.make_raw_log_partition(number bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  size CONSTANT bigint := 10000000;
BEGIN
  IF number IS NULL OR number < 0 OR number >= 92233720368 THEN
    RAISE EXCEPTION 'no partition %', number USING ERRCODE = 'numeric_value_out_of_range';
  END IF;
  PERFORM pg_advisory_xact_lock(1919252833);
"""
ATTACHED = """
  IF to_regclass(format('indexer.raw_log_p%s', number)) IS NOT NULL THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE indexer.raw_log_p%s (LIKE indexer.raw_log INCLUDING ALL)', number) || COALESCE((
    SELECT format(' TABLESPACE %I', s.spcname) FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace
    WHERE c.oid = 'indexer.raw_log'::regclass), '');
  EXECUTE format(
    'ALTER TABLE indexer.raw_log ATTACH PARTITION indexer.raw_log_p%s FOR VALUES FROM (%s) TO (%s)',
    number, number * size, (number + 1) * size
  );
END $$
"""
CREATED = """
  EXECUTE format(
    'CREATE TABLE IF NOT EXISTS indexer.raw_log_p%s PARTITION OF indexer.raw_log FOR VALUES FROM (%s) TO (%s)',
    number, number * size, (number + 1) * size
  );
END $$
"""


def upgrade() -> None:
    op.execute("ALTER TABLE indexer.coverage REPLICA IDENTITY FULL")
    op.execute(HEAD + ATTACHED)


def downgrade() -> None:
    op.execute(HEAD + CREATED)
    op.execute("ALTER TABLE indexer.coverage REPLICA IDENTITY DEFAULT")
