"""Partitions of the raw logs are made by a function that runs with its owner's rights.

A table's partitions are its owner's to make; the role that writes owns nothing. The function makes empty partitions of
this one table and nothing else, whatever it is given.

Revision: 0016, after 0015. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# IF NOT EXISTS is no protection against another process that makes it at the same moment: hence the lock ("reya").
# The search path is fixed: with the caller's, names in the body could be the caller's objects.
FUNCTION = """
CREATE FUNCTION indexer.make_raw_log_partition(number bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  size CONSTANT bigint := 10000000;
BEGIN
  IF number IS NULL OR number < 0 OR number >= 92233720368 THEN
    RAISE EXCEPTION 'no partition %', number USING ERRCODE = 'numeric_value_out_of_range';
  END IF;
  PERFORM pg_advisory_xact_lock(1919252833);
  EXECUTE format(
    'CREATE TABLE IF NOT EXISTS indexer.raw_log_p%s PARTITION OF indexer.raw_log FOR VALUES FROM (%s) TO (%s)',
    number, number * size, (number + 1) * size
  );
END $$
"""


def upgrade() -> None:
    op.execute(FUNCTION)
    op.execute("REVOKE ALL ON FUNCTION indexer.make_raw_log_partition(bigint) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION indexer.make_raw_log_partition(bigint)")
