"""What is kept for slots is bounded: by age and by size, whatever a consumer does; live slots are advanced."""

from __future__ import annotations

from indexer.store import change_log, slot_retention, stream_slots
from indexer.store.change_log import PARTITION_COMMITS as SIZE
from indexer.store.slot_retention import SLOT_LOST
from tests.scenarios.harness import Stage

_COMMIT = (
    "INSERT INTO indexer.commit_log (seq, epoch, kind, from_block, to_block, rows, captured, at)"
    " OVERRIDING SYSTEM VALUE VALUES ($1, 0, 'forward', 0, 0, 1, $2, clock_timestamp() - make_interval(hours => $3))"
)
_CHANGE = "INSERT INTO indexer.change_log VALUES ($1, 0, 1, 'copy', 'orders', 1, $2)"


async def slots(stage: Stage) -> dict[str, tuple[str, int]]:
    return {slot.name: (slot.state, slot.seq) for slot in await stream_slots.list_all(stage.own)}


async def history(stage: Stage, *hours_ago: int) -> None:
    """One captured commit at the beginning of each partition, so many hours ago."""
    for n, hours in enumerate(hours_ago):
        await stage.execute(f"SELECT indexer.make_change_log_partition({n})")
        await stage.own.execute(_COMMIT, n * SIZE + 1, True, hours)
        await stage.own.execute(_CHANGE, n * SIZE + 1, "x" * 100)


async def partitions(stage: Stage) -> list[str]:
    made = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'indexer.change_log'::regclass"
    return sorted([name for (name,) in await stage.fetch(made)])


async def lost_slots(stage: Stage) -> list[str]:
    """Subjects of open incidents."""
    query = "SELECT subject FROM indexer.incident WHERE resolved_at IS NULL AND kind = $1"
    return [name for (name,) in await stage.fetch(query, SLOT_LOST)]


async def test_a_slot_whose_oldest_change_is_too_old_is_lost_and_what_was_kept_for_it_goes(stage: Stage) -> None:
    await stage.start(0)
    await stage.execute("DELETE FROM indexer.commit_log")
    await stream_slots.create(stage.own, "behind", "instant")
    await stream_slots.create(stage.own, "confirmed", "instant")
    await stream_slots.create(stage.own, "followers", "instant", live=True)
    await history(stage, 50, 30, 20, 1)
    # Commits that are not captured are not kept, so they may be as old as they like.
    await stage.own.execute(_COMMIT, 5, False, 500)
    await stage.execute(f"UPDATE indexer.stream_slot SET seq = {2 * SIZE} WHERE name = 'confirmed'")
    assert await slot_retention.cut_off(stage.own, 51, 2_000) == []
    assert await slots(stage) == {
        "behind": ("active", 0),
        "confirmed": ("active", 2 * SIZE),
        "followers": ("active", 0),
    }
    assert await slot_retention.cut_off(stage.own, 24, 2_000) == ["behind"]
    assert await slots(stage) == {
        "behind": ("lost", 0),
        "confirmed": ("active", 2 * SIZE),
        "followers": ("active", SIZE - 1),  # Partition 1 ends 20 hours ago, so it is needed.
    }
    assert await lost_slots(stage) == ["behind"]
    await change_log.drop_confirmed(stage.own, capturing=True)
    assert await partitions(stage) == [f"indexer.change_log_p{n}" for n in (1, 2, 3)]
    assert await slot_retention.cut_off(stage.own, 24, 2_000) == []
    restarted = await stream_slots.restart(stage.own, "behind")
    assert (restarted.state, restarted.seq, restarted.note) == ("active", 3 * SIZE + 1, None)
    assert await lost_slots(stage) == []


async def test_a_slot_for_which_too_much_is_kept_is_lost(stage: Stage) -> None:
    await stage.start(0)
    await stage.execute("DELETE FROM indexer.commit_log")
    await stream_slots.create(stage.own, "behind", "instant")
    await stream_slots.create(stage.own, "followers", "instant", live=True)
    await history(stage, 3, 2, 1)
    await stage.execute(f"UPDATE indexer.stream_slot SET seq = {SIZE} WHERE name = 'behind'")
    # 3 MB that cannot be compressed, in the second partition: what is kept from there on is more than 2 MB.
    await stage.execute(
        f"INSERT INTO indexer.change_log SELECT {SIZE} + 100 + n, 0, 1, 'copy', 'orders', 1,"
        " (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 1000 + n - n))"
        " FROM generate_series(1, 100) n"
    )
    assert await slot_retention.cut_off(stage.own, 24, 50) == []
    assert await slot_retention.cut_off(stage.own, 24, 2) == ["behind"]
    ((note,),) = await stage.fetch("SELECT note FROM indexer.stream_slot WHERE name = 'behind'")
    assert note == f"cut off at commit {SIZE}: more than 2 MB were kept for it"
    assert (await slots(stage))["followers"] == ("active", 2 * SIZE - 1)
    await stream_slots.drop(stage.own, "behind")
    assert await lost_slots(stage) == []


async def test_the_partition_that_steps_write_to_is_kept_however_large_it_is(stage: Stage) -> None:
    """Its successor is made ahead and is empty: without the one in use, no step could be committed."""
    await stage.start(0)
    await stage.execute("DELETE FROM indexer.commit_log")
    await stream_slots.create(stage.own, "current", "instant")
    await stream_slots.create(stage.own, "followers", "instant", live=True)
    await history(stage, 1)
    await stage.execute(
        "SELECT indexer.make_change_log_partition(1);"
        "INSERT INTO indexer.change_log SELECT 100 + n, 0, 1, 'copy', 'orders', 1,"
        " (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 1000 + n - n))"
        " FROM generate_series(1, 100) n"
    )
    assert await slot_retention.cut_off(stage.own, 24, 1) == []
    assert await slots(stage) == {"current": ("active", 0), "followers": ("active", 0)}
    await stage.execute("DELETE FROM indexer.stream_slot WHERE name = 'current'")
    await change_log.drop_confirmed(stage.own, capturing=True)
    assert await partitions(stage) == ["indexer.change_log_p0", "indexer.change_log_p1"]


async def test_the_daemon_cuts_off_a_slot_and_goes_on(stage: Stage) -> None:
    daemon = await stage.start(0)
    await stream_slots.create(stage.own, "behind", "instant")
    node, tip = stage.nodes[0], stage.grow(stage.main, 2)
    stage.show(tip)
    await daemon.settle()
    assert await stage.value("SELECT count(*) FROM indexer.change_log") > 0
    await stage.execute("UPDATE indexer.commit_log SET at = at - interval '25 hours'")
    maintenance = daemon.runner.engine.maintenance
    for _ in range(2):  # In the first round capture is seen to go on; in the second, that no slot is left.
        maintenance._next = 0.0
        tip = stage.grow(tip, 1)
        stage.show(tip)
        await daemon.settle()
    assert (await slots(stage))["behind"][0] == "lost"
    maintenance._next = 0.0
    await daemon.settle()
    assert await stage.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'indexer.change_log'::regclass") == 0
    assert node.head == tip.hash
    await stage.equals(tip)
