"""Changes of rows are captured for consumers that follow them: slots, the change log, and what each commit stands at.

A slot is a consumer's position in the commit log. While there is one, each commit above the rollback floor also writes
the rows that it changed to indexer.change_log.

Revision: 0028. Written out in full and never edited after a release: history must not follow the code.
"""

from __future__ import annotations

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

COMMIT_LOG = {
    "captured": "boolean NOT NULL DEFAULT false",
    "checkpoint": "bigint",
    "checkpoint_hash": "bytea",
    "reorg_id": "bigint",
    "floor": "bigint",
    "safe": "bigint",
}
CHANGE_LOG = """
CREATE TABLE indexer.change_log (
  seq bigint NOT NULL,
  ord integer NOT NULL,
  op smallint NOT NULL,
  encoding text NOT NULL,
  table_name text NOT NULL,
  n integer NOT NULL,
  body text NOT NULL,
  PRIMARY KEY (seq, ord),
  CONSTRAINT change_log_op CHECK (op IN (-1, 0, 1, 2)),
  CONSTRAINT change_log_encoding CHECK (encoding IN ('copy', 'json'))
) PARTITION BY RANGE (seq)
"""
STREAM_SLOT = """
CREATE TABLE indexer.stream_slot (
  name text NOT NULL PRIMARY KEY,
  sink jsonb,
  live boolean NOT NULL DEFAULT false,
  level text NOT NULL,
  tables text[],
  seq bigint NOT NULL,
  generation bigint NOT NULL DEFAULT 0,
  last_generation bigint NOT NULL DEFAULT 0,
  token bigint NOT NULL DEFAULT 0,
  state text NOT NULL DEFAULT 'active',
  holder text,
  backend_pid integer,
  backend_start timestamptz,
  expires_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  confirmed_at timestamptz,
  lost_at timestamptz,
  note text,
  CONSTRAINT stream_slot_level CHECK (level IN ('instant', 'safe', 'finalized')),
  CONSTRAINT stream_slot_state CHECK (state IN ('active', 'paused', 'lost'))
)
"""

# As for the raw logs in 0027: the writing role owns nothing, the lock keeps two processes apart, the search path is
# fixed, and ATTACH locks out no reader.
MAKE = """
CREATE FUNCTION indexer.make_change_log_partition(number bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  size CONSTANT bigint := 8192;
BEGIN
  IF number IS NULL OR number < 0 OR number >= 1125899906842623 THEN
    RAISE EXCEPTION 'no partition %', number USING ERRCODE = 'numeric_value_out_of_range';
  END IF;
  PERFORM pg_advisory_xact_lock(1919252834);
  IF to_regclass(format('indexer.change_log_p%s', number)) IS NOT NULL THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE indexer.change_log_p%s (LIKE indexer.change_log INCLUDING ALL)', number) || COALESCE((
    SELECT format(' TABLESPACE %I', s.spcname) FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace
    WHERE c.oid = 'indexer.change_log'::regclass), '');
  EXECUTE format(
    'ALTER TABLE indexer.change_log ATTACH PARTITION indexer.change_log_p%s FOR VALUES FROM (%s) TO (%s)',
    number, number * size, (number + 1) * size
  );
END $$
"""
# Whoever creates a slot makes its partitions under the same lock, so none is dropped that a new slot counts on.
# Dropping locks out every reader of the change log: rather than wait for one, and make all others wait behind it, the
# function does nothing.
DROP = """
CREATE FUNCTION indexer.drop_change_log_partition(number bigint) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
  size CONSTANT bigint := 8192;
BEGIN
  PERFORM pg_advisory_xact_lock(1919252834);
  IF EXISTS (SELECT FROM indexer.stream_slot WHERE state <> 'lost' AND seq < (number + 1) * size - 1) THEN
    RETURN false;
  END IF;
  EXECUTE format('DROP TABLE IF EXISTS indexer.change_log_p%s', number);
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END $$
"""


def upgrade() -> None:
    columns = ", ".join(f"ADD COLUMN {name} {kind}" for name, kind in COMMIT_LOG.items())
    op.execute(f"ALTER TABLE indexer.commit_log {columns}")
    op.execute(CHANGE_LOG)
    op.execute(STREAM_SLOT)
    for function, name in ((MAKE, "make_change_log_partition"), (DROP, "drop_change_log_partition")):
        op.execute(function)
        op.execute(f"REVOKE ALL ON FUNCTION indexer.{name}(bigint) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION indexer.drop_change_log_partition(bigint)")
    op.execute("DROP FUNCTION indexer.make_change_log_partition(bigint)")
    op.execute("DROP TABLE indexer.stream_slot, indexer.change_log")
    op.execute(f"ALTER TABLE indexer.commit_log {', '.join(f'DROP COLUMN {name}' for name in COMMIT_LOG)}")
