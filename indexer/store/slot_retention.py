"""Retention: what is kept for slots is bounded, so that a consumer that is away never fills the database.

A slot whose oldest unconfirmed change is too old, or for which too many bytes are kept, is cut off: it is lost, its
partitions are dropped, and its consumer begins anew. A live slot is advanced instead, by whole partitions.
"""

from __future__ import annotations

from indexer.db.connection import Connection
from indexer.store.change_log import PARTITION_COMMITS
from indexer.store.incidents import record

SLOT_LOST = "stream_lost"  # The incident: a slot was cut off.
# Each partition with the bytes kept from it on, and when its first commit was made.
_PARTITIONS = f"""
part AS (
  SELECT substring(c.relname FROM '[0-9]+$')::bigint AS n, pg_total_relation_size(c.oid) AS bytes
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'indexer.change_log'::regclass
), kept AS (
  SELECT n, sum(bytes) OVER (ORDER BY n DESC) AS bytes,
    (SELECT l.at FROM indexer.commit_log l WHERE l.seq >= n * {PARTITION_COMMITS} ORDER BY l.seq LIMIT 1) AS began
  FROM part
)
"""
# A slot in the partition that steps write to keeps no other, however large that one is. Of age,
# the oldest change that a slot keeps decides: not the oldest commit, of which many may not be captured.
_LOSE = f"""
WITH {_PARTITIONS}, late AS (
  SELECT s.name, s.seq, (SELECT k.bytes FROM kept k WHERE k.n = (s.seq + 1) / {PARTITION_COMMITS}
      AND k.n < (SELECT max(seq) FROM indexer.commit_log) / {PARTITION_COMMITS}) AS bytes,
    (SELECT l.at FROM indexer.commit_log l
      WHERE l.seq = (SELECT min(c.seq) FROM indexer.change_log c WHERE c.seq > s.seq)) AS oldest
  FROM indexer.stream_slot s WHERE NOT s.live AND s.state <> 'lost'
)
UPDATE indexer.stream_slot s SET state = 'lost', lost_at = clock_timestamp(), note = 'cut off at commit ' || s.seq ||
  CASE WHEN l.bytes > $2::bigint * 1000000 THEN ': more than ' || $2 || ' MB were kept for it'
    ELSE ': its oldest change was kept for more than ' || $1 || ' hours' END
FROM late l WHERE l.name = s.name AND s.seq = l.seq AND s.state <> 'lost'
  AND (l.bytes > $2 * 1000000 OR l.oldest < clock_timestamp() - make_interval(hours => $1)) RETURNING s.name, s.note
"""
# A partition is needed while the next one began within the hours kept; that of the newest commit always is: the one
# after it exists already, and without the partition that steps write to, the indexer would stop.
_ADVANCE = f"""
WITH {_PARTITIONS}, needed AS (
  SELECT min(k.n) AS n FROM kept k WHERE k.bytes <= $2::bigint * 1000000
    AND NOT EXISTS (SELECT FROM kept f WHERE f.n = k.n + 1 AND f.began < clock_timestamp() - make_interval(hours => $1))
)
UPDATE indexer.stream_slot s SET seq = needed.n * {PARTITION_COMMITS} - 1
FROM (SELECT least(n, (SELECT max(seq) FROM indexer.commit_log) / {PARTITION_COMMITS}) AS n FROM needed) needed
WHERE s.live AND needed.n * {PARTITION_COMMITS} - 1 > s.seq
"""


async def cut_off(conn: Connection, hours: int, megabytes: int) -> list[str]:
    """Cut off the slots for which more would be kept than allowed; return their names. Advance live slots.

    An incident of kind SLOT_LOST is opened for each slot that is lost. The partitions are dropped by
    `change_log.drop_confirmed`.

    Args:
        conn: connection.
        hours: age up to which changes are kept (h).
        megabytes: bytes of the change log, with its index, that are kept (1e6 bytes).
    """
    lost = await conn.fetch(_LOSE, hours, megabytes)
    if lost:
        await record(
            conn,
            [
                {
                    "kind": SLOT_LOST,
                    "subject": name,
                    "detail": note,
                    "first_block": None,
                    "last_block": None,
                    "count": 1,
                }
                for name, note in lost
            ],
        )
    await conn.execute(_ADVANCE, hours, megabytes)
    return [name for name, _ in lost]
