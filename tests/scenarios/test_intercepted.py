"""What others put on our tables: a step that it would falsify or that it refuses is not committed, until it is gone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple

import asyncpg
import pytest

from indexer.config import load
from indexer.db.connection import connection
from indexer.embedded_pg.server import EmbeddedServer
from indexer.ops.doctor.database_checks import examine_database
from tests.chaos.databases import Databases
from tests.chaos.truth import CONFIG
from tests.scenarios.harness import Stage
from tests.support.daemon import run
from tests.support.oracle.base import TABLES
from tests.support.waiting import eventually
from tests.system.test_roles import Cast, cast

DEPTH = 10

SWALLOW = """
CREATE FUNCTION test.swallow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TRIGGER swallows BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION test.swallow();
"""
SECURED = """
ALTER TABLE public.order_history ENABLE ROW LEVEL SECURITY;
CREATE POLICY readable ON public.order_history FOR SELECT USING (true);
CREATE POLICY fillable ON public.order_history FOR INSERT WITH CHECK (true);
"""


class Played(Stage):
    """Its daemons work as the writer of `reya-indexer db roles`, the tests as the superuser."""

    actors: Cast

    async def follow(self) -> None:
        """A daemon that stands at the main chain's head."""
        admin, self.url = self.url, self.actors.writer
        self.daemon = await self.start()
        self.url = admin

    async def everything(self) -> dict[str, list[str]]:
        """All rows as text."""
        names = [name if "." in name else f"public.{name}" for name in TABLES]
        names += [
            f"indexer.{name}"
            for name in ("raw_log", "block", "before_image", "orphaned_row", "orphaned_log", "coverage", "commit_log")
        ]
        return {
            name: sorted(row for (row,) in await self.fetch(f"SELECT to_jsonb(t)::text FROM {name} t"))
            for name in names
        }

    async def refuses(self, table: str) -> str:
        """The next step halts the daemon for a reason that names the table, and nothing has changed."""
        before, at = (
            await self.everything(),
            await self.fetch("SELECT number, hash, rollback_floor FROM indexer.checkpoint"),
        )
        await self.daemon.poll(5)
        progress = self.daemon.progress
        assert (
            progress.mode == "halted" and table in progress.waiting and progress.waiting in progress.reasons_not_ready()
        )
        ((subject, detail),) = await self.fetch(
            "SELECT subject, detail FROM indexer.incident WHERE kind = 'change_refused'"
        )
        assert progress.waiting == f"halted: {detail}" and subject.startswith("follower: ")
        assert await self.value("SELECT state FROM indexer.lease") == progress.waiting
        assert self.daemon.runner.engine.token is None, "another process may take over"
        assert await self.everything() == before
        assert await self.fetch("SELECT number, hash, rollback_floor FROM indexer.checkpoint") == at
        assert await self.journal() == []
        return progress.waiting

    async def goes_on(self, tip_fork: int | None) -> None:
        """Once the obstacle is gone, the daemon does the step that was refused."""
        await self.daemon.settle()
        assert self.daemon.progress.mode == "following"
        open_ones = "SELECT count(*) FROM indexer.incident WHERE resolved_at IS NULL AND kind = 'change_refused'"
        assert await self.value(open_ones) == 0
        await self.equals(self.tree[self.nodes[0].head], None if tip_fork is None else [(tip_fork, DEPTH)])


@pytest.fixture
async def played(server: EmbeddedServer, databases: Databases, request: pytest.FixtureRequest) -> AsyncIterator[Played]:
    url, prefix = await databases.make(), f"t{uuid.uuid4().hex[:10]}"
    actors = await asyncio.to_thread(cast, url, prefix)
    async with Played(url, request.node.nodeid) as stage:
        stage.actors = actors
        await stage.execute("GRANT USAGE ON SCHEMA test TO PUBLIC; GRANT INSERT ON test.deleted TO PUBLIC")
        yield stage
    await databases.drop(url)
    async with connection(server.url("postgres")) as conn:
        await conn.execute(f"DROP ROLE {', '.join(actors.roles)}")


async def reorged(stage: Played) -> int:
    """The node switches to a fork of the last blocks, all busy; the fork point."""
    fork = stage.main.number - DEPTH
    stage.show(stage.busy("b", fork, DEPTH))
    return fork


async def test_a_reorg_under_row_level_security_is_an_error_not_fewer_rows(played: Played) -> None:
    await played.follow()
    await played.execute(SECURED)
    fork = await reorged(played)
    reason = await played.refuses("order_history")
    assert "row level security" in reason and "DISABLE ROW LEVEL SECURITY" in reason
    await played.execute("ALTER TABLE public.order_history DISABLE ROW LEVEL SECURITY")
    await played.goes_on(fork)


@pytest.mark.parametrize(
    ("table", "event"),
    [
        ("public.order_history", "DELETE"),
        ("public.order_history", "INSERT"),
        ("public.positions", "DELETE"),
        ("public.positions", "UPDATE"),
        ("public.position_raw", "INSERT OR UPDATE"),
        ("indexer.raw_log", "DELETE"),
        ("indexer.raw_log", "INSERT"),
        ("indexer.block", "INSERT"),
        ("indexer.block", "DELETE"),
        ("indexer.orphaned_row", "INSERT"),
        ("indexer.orphaned_log", "INSERT"),
        ("indexer.before_image", "INSERT"),
        ("indexer.before_image", "DELETE"),
        ("indexer.checkpoint", "UPDATE"),
        ("indexer.epoch", "UPDATE"),
        ("indexer.commit_log", "INSERT"),
    ],
)
async def test_a_reorg_whose_changes_a_trigger_swallows_is_not_committed(
    played: Played, table: str, event: str
) -> None:
    await played.follow()
    await played.execute(SWALLOW.format(table=table, event=event))
    fork = await reorged(played)
    reason = await played.refuses(table)
    assert "trigger swallows" in reason and f"ALTER TABLE {table.removeprefix('public.')}" in reason
    await played.execute(f"DROP TRIGGER swallows ON {table}")
    await played.goes_on(fork)


@pytest.mark.parametrize("table", ["public.order_history", "public.positions", "indexer.raw_log"])
async def test_a_step_forward_whose_rows_a_trigger_swallows_is_not_committed(played: Played, table: str) -> None:
    await played.follow()
    await played.execute(SWALLOW.format(table=table, event="INSERT"))
    played.show(played.grow(played.main, 5, 8.0))
    await played.refuses(table)
    await played.execute(f"DROP TRIGGER swallows ON {table}")
    await played.goes_on(None)


async def test_a_backfill_ends_with_its_exit_code_and_one_line(played: Played) -> None:
    await played.execute(SWALLOW.format(table="public.order_history", event="INSERT"))
    done = await asyncio.to_thread(
        run, "backfill", "--chain", str(CONFIG), "--rpc-url", played.nodes[0].url, "--from-block=0", "--to-block=60",
        env={"DATABASE_URL": played.actors.writer},
    )  # fmt: skip
    assert done.returncode == 24, done.stderr
    assert "of public.order_history" in done.stderr and "Traceback" not in done.stderr
    assert await played.value("SELECT count(*) FROM public.orders") == 0


async def doctored(url: str) -> dict[str, list[tuple[str, str, str]]]:
    found: dict[str, list[tuple[str, str, str]]] = {}
    for one in await examine_database(load(str(CONFIG)), url):
        found.setdefault(one.check, []).append((one.level, one.detail, one.remedy))
    return found


async def test_doctor_names_what_comes_between_beforehand(played: Played) -> None:
    writer, admin = played.actors.writer, played.url
    assert [level for level, _, _ in (await doctored(writer))["triggers"]] == ["good"]
    await played.execute(SECURED)
    ((level, said, remedy),) = (await doctored(writer))["row security"]
    assert (level, remedy) == (
        "fix",
        "ALTER TABLE order_history DISABLE ROW LEVEL SECURITY",
    ) and "order_history" in said
    ((level, said, _),) = (await doctored(admin))["row security"]
    assert level == "note" and "order_history" in said  # who may bypass it works, its readers may miss rows
    await played.execute(remedy)
    await played.execute(SWALLOW.format(table="public.positions", event="DELETE"))
    await played.execute("CREATE RULE nothing AS ON DELETE TO public.orders DO INSTEAD NOTHING")
    found = (await doctored(writer))["triggers"]
    assert {level for level, _, _ in found} == {"fix"} and len(found) == 2
    assert "rule nothing of orders" in found[0][1] + found[1][1]
    assert "trigger swallows of positions" in found[0][1] + found[1][1]
    for _, _, remedy in found:
        await played.execute(remedy)
    assert [level for level, _, _ in (await doctored(writer))["triggers"]] == ["good"]


async def test_a_right_that_is_lacking_is_no_row_level_security(played: Played) -> None:
    async with connection(played.actors.reader) as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("DELETE FROM public.order_history")


# -- what refuses a step outright

RAISES = """
CREATE FUNCTION test.forbid() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not here'; END$$;
CREATE TRIGGER forbids {when} ON public.order_history FOR EACH ROW EXECUTE FUNCTION test.forbid();
"""


class Hindrance(NamedTuple):
    """What an application does to a table, how it takes it back, and what the indexer says in between."""

    made: str
    undone: str
    said: tuple[str, ...]


FORWARD = {
    "not-null": Hindrance(
        "ALTER TABLE public.orders ADD note text; UPDATE public.orders SET note = '';"
        " ALTER TABLE public.orders ALTER note SET NOT NULL",
        "ALTER TABLE public.orders DROP note",
        ("a constraint refuses a row", "note", 'ALTER TABLE "public"."orders" ALTER COLUMN "note" DROP NOT NULL'),
    ),
    "check": Hindrance(
        "ALTER TABLE public.orders ADD CONSTRAINT few CHECK (block_number < 90) NOT VALID",
        "ALTER TABLE public.orders DROP CONSTRAINT few",
        ("a constraint refuses a row", "few", 'ALTER TABLE "public"."orders" DROP CONSTRAINT "few"'),
    ),
    "renamed-column": Hindrance(
        "ALTER TABLE public.orders RENAME price TO prize",
        "ALTER TABLE public.orders RENAME prize TO price",
        ("tables are not what this release expects", "price", "migrate --check"),
    ),
    "raising-trigger": Hindrance(
        RAISES.format(when="BEFORE INSERT"),
        "DROP TRIGGER forbids ON public.order_history",
        ("a trigger or function of others fails", "not here", "test.forbid", "DISABLE TRIGGER"),
    ),
    "right": Hindrance(
        "REVOKE INSERT ON public.order_history FROM {writer}",
        "GRANT INSERT ON public.order_history TO {writer}",
        ("lacks a right", "order_history", "db roles"),
    ),
}

BACKWARD = {
    "foreign-key": Hindrance(
        "CREATE TABLE public.notes (id text CONSTRAINT noted REFERENCES public.order_history (id));"
        " INSERT INTO public.notes SELECT id FROM public.order_history WHERE block_number > 90",
        "DROP TABLE public.notes",
        ("a constraint refuses a row", "notes", 'ALTER TABLE "public"."notes" DROP CONSTRAINT "noted"', "reproject"),
    ),
    "raising-trigger": Hindrance(
        RAISES.format(when="BEFORE DELETE"),
        "DROP TRIGGER forbids ON public.order_history",
        ("a trigger or function of others fails", "not here", "test.forbid", "DISABLE TRIGGER"),
    ),
    "publication": Hindrance(
        "ALTER TABLE public.order_history REPLICA IDENTITY NOTHING;"
        " CREATE PUBLICATION everything FOR TABLE public.order_history",
        "DROP PUBLICATION everything; ALTER TABLE public.order_history REPLICA IDENTITY DEFAULT",
        ("refuses changes of a table", "order_history", "REPLICA IDENTITY FULL"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARD)
async def test_a_step_forward_is_refused_until_what_is_in_the_way_is_gone(played: Played, name: str) -> None:
    hindrance = FORWARD[name]
    await played.follow()
    await played.execute(hindrance.made.format(writer=played.actors.roles.writer))
    played.show(played.grow(played.main, 5, 8.0))
    reason = await played.refuses(hindrance.said[1])
    assert all(words in reason for words in hindrance.said), reason
    await played.execute(hindrance.undone.format(writer=played.actors.roles.writer))
    await played.goes_on(None)


@pytest.mark.parametrize("name", BACKWARD)
async def test_a_rollback_is_refused_until_what_is_in_the_way_is_gone(played: Played, name: str) -> None:
    hindrance = BACKWARD[name]
    await played.follow()
    await played.execute(hindrance.made)
    fork = await reorged(played)
    reason = await played.refuses(hindrance.said[1])
    assert all(words in reason for words in hindrance.said), reason
    await played.execute(hindrance.undone)
    await played.goes_on(fork)


COMMANDS = {
    "reproject": (BACKWARD["foreign-key"]._replace(said=("notes", "doctor")), ()),
    "backfill": (FORWARD["check"], ("--rpc-url={node}", "--from-block=0")),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_ends_with_its_exit_code_and_one_line(played: Played, command: str) -> None:
    hindrance, flags = COMMANDS[command]
    await played.follow()
    await played.daemon.stop()
    played.daemons.remove(played.daemon)
    await played.execute(hindrance.made)
    tip = played.grow(played.main, 5, 8.0)
    played.show(tip)
    played.nodes[0].finalized = tip.number
    before = await played.everything()
    words = [*command.split(), *(flag.format(node=played.nodes[0].url) for flag in flags), "--chain", str(CONFIG)]
    done = await asyncio.to_thread(run, *words, env={"DATABASE_URL": played.actors.writer})
    assert done.returncode == 24, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(said in line for said in hindrance.said) and "Traceback" not in done.stderr
    rows = {name: kept for name, kept in before.items() if name.startswith("public.")}
    assert {name: kept for name, kept in (await played.everything()).items() if name in rows} == rows
    ((detail,),) = await played.fetch("SELECT detail FROM indexer.incident WHERE kind = 'change_refused'")
    assert f"error: {detail}" == line


async def test_a_refusal_that_gives_way_to_another_is_told_as_it_is_now(played: Played) -> None:
    writer = played.actors.roles.writer
    await played.follow()
    await played.execute(f"REVOKE INSERT ON public.order_history FROM {writer}")
    played.show(played.grow(played.main, 5, 8.0))
    await played.refuses("order_history")
    await played.execute(f"GRANT INSERT ON public.order_history TO {writer}")
    await played.execute(f"REVOKE INSERT ON public.orders FROM {writer}")
    await played.refuses("for table orders")
    await played.execute(f"GRANT INSERT ON public.orders TO {writer}")
    await played.goes_on(None)


async def test_what_the_auditor_could_not_store_is_resolved_when_it_can(played: Played) -> None:
    await played.execute("ALTER TABLE indexer.attestation ADD CONSTRAINT none CHECK (id < 0) NOT VALID")
    await played.follow()
    auditor = played.daemon.auditor(played.nodes)
    for _ in range(3):
        await auditor.run_once()
    opened = "SELECT subject, resolved_at IS NULL FROM indexer.incident WHERE kind = 'change_refused'"
    assert await played.fetch(opened) == [("attest: indexer.attestation", True)]
    await played.execute("ALTER TABLE indexer.attestation DROP CONSTRAINT none")
    await played.daemon.audit(auditor)
    assert await played.fetch(opened) == [("attest: indexer.attestation", False)]


async def test_another_process_takes_over_from_a_projector_that_is_refused(played: Played) -> None:
    await played.follow()
    await played.execute(f"REVOKE INSERT ON public.order_history FROM {played.actors.roles.writer}")
    played.show(played.grow(played.main, 5, 8.0))
    await played.refuses("order_history")
    other = await played.start(settled=False)  # As a role that has the right.
    await eventually(partial(other.poll, 1), "the lease of the other")
    await other.settle()
    await played.equals(played.tree[played.nodes[0].head], None)
