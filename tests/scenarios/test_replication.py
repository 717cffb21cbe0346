"""Publications, dumps and whatever else others do with our tables: nothing of it stops the indexer."""

from __future__ import annotations

import asyncpg
import pytest

from indexer.db.connection import connect
from indexer.schema import deferred_indexes
from indexer.store import lease, stream_slots
from indexer.store.raw_logs import PARTITION_BLOCKS, ensure_partitions
from tests.scenarios.harness import Stage


async def test_o02_a_publication_for_all_tables_stops_neither_loads_nor_reorgs(stage: Stage) -> None:
    conn = await asyncpg.connect(stage.url)
    try:
        await conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        await stream_slots.create(conn, "test", "instant")
        daemon = await stage.start()
        await daemon.settle()
        other = stage.fork("b", 90, 14, density=4.0)
        stage.show(other)
        await daemon.settle()
        assert daemon.errors == 0 and await stage.value("SELECT count(*) FROM indexer.change_log")
        await stage.equals(other)
        without = await conn.fetch(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname IN ('public', 'indexer') AND c.relkind IN ('r', 'p') AND c.relreplident <> 'f'"
            " AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident))"
        )
        assert without == []
    finally:
        await conn.close()


@pytest.mark.parametrize("published", ["FOR ALL TABLES", "FOR TABLE order_history", ""])
async def test_o02_keys_that_a_publication_needs_are_not_put_off(published: str, stage: Stage) -> None:
    conn = await connect(stage.url)
    try:
        if published:
            await conn.execute(f"CREATE PUBLICATION ours {published}")
        else:
            await conn.execute("ALTER TABLE orders REPLICA IDENTITY USING INDEX orders_pkey")
        token = await lease.acquire(conn, "test")
        assert token is not None and await deferred_indexes.drop_indexes(conn, token) > 0
        keys = {name for name in await deferred_indexes.pending(conn) if name.endswith("_pkey")}
        if published == "FOR ALL TABLES":
            assert keys == set()
        else:
            kept = "order_history_pkey" if published else "orders_pkey"
            assert kept not in keys and len(keys) > 3
        await deferred_indexes.build_indexes([conn], lambda name, left: None)
        assert await deferred_indexes.pending(conn) == []
    finally:
        await conn.close()


async def test_o07_a_dump_that_reads_the_raw_logs_does_not_stop_a_new_partition(stage: Stage) -> None:
    dump, ours, reader = [await connect(stage.url, lock_timeout="1s") for _ in range(3)]
    try:
        await dump.execute("BEGIN; LOCK TABLE indexer.raw_log IN ACCESS SHARE MODE; SELECT 1 FROM indexer.raw_log")
        async with ours.transaction():
            await ensure_partitions(ours, 7 * PARTITION_BLOCKS, 7 * PARTITION_BLOCKS)
            # Nor does it keep out whoever comes later.
            assert await reader.fetchval("SELECT count(*) FROM indexer.raw_log") >= 0
        await ensure_partitions(ours, 7 * PARTITION_BLOCKS, 7 * PARTITION_BLOCKS)
        shape = (
            "SELECT pg_get_expr(c.relpartbound, c.oid), (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid)"
            " FROM pg_class c WHERE c.oid = to_regclass($1)"
        )
        bound, indexes = await ours.fetchrow(shape, "indexer.raw_log_p7") or ("", 0)
        assert bound == "FOR VALUES FROM ('70000000') TO ('80000000')"
        assert indexes == (await ours.fetchrow(shape, "indexer.raw_log") or ("", -1))[1] > 0
    finally:
        for conn in (dump, ours, reader):
            await conn.close()
