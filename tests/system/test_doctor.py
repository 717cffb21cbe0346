"""`endpoints` shows what the daemon stored, `doctor` says what to fix; both as programs of their own."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from indexer.db.connection import connect
from indexer.follow.endpoint_monitor import EndpointMonitor
from indexer.rpc.head_feed import HeadFeed
from indexer.rpc.pool import Pool
from indexer.schema.migrate import upgrade_async
from tests.scenarios.harness import CHAIN_ID
from tests.support.daemon import environment, run
from tests.support.postgres import execute
from tests.support.simchain.chain import Tree
from tests.support.simchain.node import SimNode
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.view import NO_RECEIPTS, Depth, Json
from tests.support.simchain.world import exchange
from tests.support.stubnode import StubNode

SECRET = "SECRETKEY"
MUST_FIX = 36


@asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[SimNode]]:
    """Of one chain of 40 blocks, with tags."""
    tree = Tree()
    world, rng = exchange(tree), random.Random(8)
    tip = world.grow(tree.genesis.hash, 40, rng, 1.5)
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(SimNode(tree, tip.hash, CHAIN_ID)) for _ in range(count)]
        for node in made:
            node.safe, node.finalized = Depth(4), Depth(10)
        yield made


async def program(*arguments: str, url: str = "") -> subprocess.CompletedProcess[str]:
    env = {"DATABASE_URL": url} if url else {}
    return await asyncio.to_thread(partial(run, *arguments, "--chain", "devnet", env=env))


async def examined(*arguments: str, url: str = "") -> tuple[int, dict[tuple[str, str], dict[str, Any]], str]:
    """Exit code, findings by subject and check, and everything that was said."""
    done = await program("doctor", "--json", *arguments, *([] if url else ["--no-database"]), url=url)
    found = json.loads(done.stdout)["findings"]
    return done.returncode, {(f["subject"], f["check"]): f for f in found}, done.stdout + done.stderr


def level(found: dict[tuple[str, str], dict[str, Any]], check: str, subject: str = "") -> str:
    (one,) = [f for (s, c), f in found.items() if c == check and subject in s]
    if one["level"] == "fix":
        assert one["remedy"]
    return str(one["level"])


async def test_doctor_finds_nothing_to_fix_in_two_good_endpoints_and_a_migrated_database(
    fresh_database: Callable[[], str],
) -> None:
    url = fresh_database()
    await upgrade_async(url)
    async with nodes(2) as (a, b):
        arguments = ("--rpc-url", a.url, "--rpc-url", b.url, "--ws-url", a.ws_url)
        code, found, said = await examined(*arguments, url=url)
    assert code == 0, said
    host = urlsplit(a.url).netloc
    for check in ("chain id", "tag safe", "tag finalized", "block time", "batch", "getLogs by hash", "receipts",
                  "limits", "history", "latency"):  # fmt: skip
        assert level(found, check, f"http://{host}") == "good", check
    assert level(found, "newHeads") == level(found, "agreement") == "good"
    for check in ("version", "writable", "schema", "rights", "connections", "settings", "time zone"):
        assert level(found, check, "postgresql://") == "good", check
    assert "GiB" in next(f["said"] for (_, check), f in found.items() if check == "disk")
    assert (urlsplit(url).password or SECRET) not in said


async def test_doctor_names_what_is_wrong_with_an_endpoint() -> None:
    async with nodes(7) as (good, other, bare, liar, small, pruned, fork), StubNode(5) as foreign:
        other.chain_id = 1
        bare.safe = bare.finalized = None
        bare.missing_methods, bare.max_batch = NO_RECEIPTS, 4
        liar.omit = {(block.hash, n) for block in liar.tree.path(liar.head) for n in range(200)}
        small.max_blocks, pruned.pruned_below, pruned.pruned_mode = 7, 20, "error"
        fork.head = fork.tree.grow(fork.tree.ancestor(fork.head, 20).hash, 25, salt=b"f").hash
        urls = [n.url for n in (good, other, bare, liar, small, pruned, fork)]
        dead = "http://127.0.0.1:1/" + SECRET
        arguments = [x for u in (*urls, dead) for x in ("--rpc-url", u)]
        code, found, said = await examined(*arguments, "--ws-url", foreign.ws_url)
    assert code == MUST_FIX and SECRET not in said
    assert level(found, "chain id", other.url) == "fix"
    assert level(found, "answers", "http://127.0.0.1:1/") == "fix"
    assert (level(found, "tag finalized", bare.url), level(found, "receipts", bare.url)) == ("note", "note")
    assert level(found, "batch", bare.url) == "note"
    assert level(found, "receipts", liar.url) == "fix"
    assert "7 blocks" in found[small.url, "limits"]["said"]
    assert (level(found, "history", pruned.url), level(found, "limits", pruned.url)) == ("note", "note")
    assert level(found, "agreement") == "fix" and fork.url in found["endpoints", "agreement"]["said"]
    assert level(found, "chain id", "ws://") == "fix"
    assert level(found, "chain id", good.url) == "good"


async def test_doctor_names_the_habits_of_endpoints_what_they_cost_and_what_helps() -> None:
    async with nodes(9) as (good, tags, hashes, roots, late, untimed, singles, behind, refuses):
        tags.on_request = refusing("context deadline exceeded", "safe", "finalized")
        hashes.patch_header = lambda header: header | {"mixHash": None}
        roots.patch_receipts = other_gas
        late.patch_logs = lambda logs: [log | {"blockTimestamp": "0x0"} for log in logs]
        untimed.log_timestamps = "none"
        singles.missing_methods, refuses.missing_methods = {"eth_getBlockReceipts"}, NO_RECEIPTS
        behind.lag = 24
        refuses.max_blocks = 9
        every = (good, tags, hashes, roots, late, untimed, singles, behind, refuses)
        code, found, said = await examined(*[x for node in every for x in ("--rpc-url", node.url)])
        spent = max(node.http_requests for node in every)
    assert code == 0, said
    assert spent <= 45, "a few dozen requests to each"

    def note(node: SimNode, check: str) -> str:
        one = found[node.url, check]
        assert one["level"] == "note" and one["remedy"], one
        return str(one["said"])

    assert "fails now (context deadline exceeded): nothing new becomes final" in note(tags, "tag finalized")
    assert "mixHash" in note(hashes, "header")
    assert "another root than its header" in note(roots, "receipts root")
    assert "another time than its header" in note(late, "log times")
    assert "no block time" in note(untimed, "log times")
    assert "one eth_getTransactionReceipt per transaction" in note(singles, "receipts")
    assert "24 blocks behind another endpoint" in note(behind, "lag")
    assert "logs are not proven" in note(refuses, "receipts")
    assert "9 blocks in one eth_getLogs" in note(refuses, "limits")
    assert "max_blocks = 9" in found[refuses.url, "limits"]["remedy"]
    assert found["endpoints", "newHeads"]["level"] == "note"
    for check in ("header", "receipts root", "receipts", "log times", "tag finalized", "tag safe", "limits"):
        assert level(found, check, good.url) == "good", check


def refusing(words: str, *tags: str) -> Callable[[str, list[Any]], None]:
    def hook(method: str, params: list[Any]) -> None:
        if method == "eth_getBlockByNumber" and params[0] in tags:
            raise Refusal(-32000, words)

    return hook


def other_gas(receipts: list[Json]) -> None:
    for receipt in receipts:
        receipt["cumulativeGasUsed"] = hex(int(receipt["cumulativeGasUsed"], 16) + 1)


@pytest.fixture
def low_role(fresh_database: Callable[[], str]) -> Iterator[tuple[str, str]]:
    """A migrated database, as its owner and as a role without rights."""
    url, role = fresh_database(), "doctor_low"
    asyncio.run(upgrade_async(url))
    asyncio.run(execute(url, f"CREATE ROLE {role} LOGIN PASSWORD 'low' CONNECTION LIMIT 5",
                        f"GRANT USAGE ON SCHEMA indexer TO {role}",
                        f"GRANT SELECT ON ALL TABLES IN SCHEMA indexer TO {role}",
                        f"ALTER ROLE {role} SET TimeZone = 'America/New_York'",
                        f"ALTER ROLE {role} SET default_transaction_read_only = on"))  # fmt: skip
    parts = urlsplit(url)
    yield url, parts._replace(netloc=f"{role}:low@{parts.netloc.rpartition('@')[2]}").geturl()
    asyncio.run(execute(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}"))


async def test_doctor_names_what_is_wrong_with_a_database(low_role: tuple[str, str]) -> None:
    async with nodes(1) as (node,):
        code, found, said = await examined("--rpc-url", node.url, url=low_role[1])
        assert code == MUST_FIX and "low@" not in said
        for check in ("rights", "writable", "connections", "time zone"):
            assert level(found, check, "postgresql://") == "fix", check
        assert "doctor_low" in found[next(k for k in found if k[1] == "time zone")]["said"]
        assert level(found, "number", "endpoints") == "note"  # one only
        await execute(low_role[0], "UPDATE indexer.alembic_version SET version_num = '0001'")
        code, found, _ = await examined("--rpc-url", node.url, url=low_role[0])
        assert (code, level(found, "schema")) == (MUST_FIX, "fix")
        code, found, said = await examined("--rpc-url", node.url, url="postgresql://u:hunter2@127.0.0.1:1/db")
        assert code == MUST_FIX and "hunter2" not in said
        assert found["postgresql://127.0.0.1:1/…", "answers"]["said"].startswith("the database: refuses connections")


OF_OTHERS = (
    "CREATE TABLE public.notes (id text CONSTRAINT noted REFERENCES public.order_history (id))",
    "CREATE TABLE public.seen (number bigint CONSTRAINT seen_block REFERENCES indexer.block (number))",
    "ALTER TABLE public.orders ADD note text NOT NULL",
    "ALTER TABLE public.positions ADD CONSTRAINT small CHECK (base < 100)",
    "CREATE UNIQUE INDEX once ON public.token_transfer (block_number)",
    "ALTER TABLE public.account_balances RENAME balance TO balanced",
)


async def test_doctor_names_what_others_put_on_the_tables_before_a_step_meets_it(
    fresh_database: Callable[[], str],
) -> None:
    url = fresh_database()
    await upgrade_async(url)

    async def said(check: str) -> list[tuple[str, str, str]]:
        done = await program("doctor", "--json", url=url)
        found = [f for f in json.loads(done.stdout)["findings"] if f["check"] == check]
        return [(f["level"], f["said"], f["remedy"]) for f in found]

    assert [one[0] for one in await said("tables")] == ["good"] and not await said("publications")
    await execute(url, *OF_OTHERS)
    found = await said("tables")
    assert {one[0] for one in found} == {"fix"} and len(found) == len(OF_OTHERS)
    for words in ("noted of notes", "seen_block of seen", '"note" must be given', "small of positions",
                  "unique index on block_number", 'no column "balance"'):  # fmt: skip
        assert [one for one in found if words in one[1]], (words, found)
    removable = [remedy for _, _, remedy in found if remedy.startswith("ALTER TABLE") and "DROP" in remedy]
    assert len(removable) == 4
    await execute(url, *removable, "DROP INDEX once", "ALTER TABLE public.account_balances RENAME balanced TO balance")
    assert [one[0] for one in await said("tables")] == ["good"]

    name = urlsplit(url).path.lstrip("/")
    await execute(url, "ALTER TABLE public.orders REPLICA IDENTITY NOTHING",
                  "CREATE PUBLICATION everything FOR ALL TABLES",
                  f'ALTER DATABASE "{name}" SET idle_session_timeout = 7000')  # fmt: skip
    ((level_, what, remedy),) = await said("publications")
    assert level_ == "fix" and "everything publishes orders" in what and "REPLICA IDENTITY FULL" in remedy
    assert [(one[0], "idle_session_timeout is 7000 ms" in one[1]) for one in await said("settings")] == [("fix", True)]
    await execute(url, remedy.partition(",")[0], f'ALTER DATABASE "{name}" RESET idle_session_timeout')
    assert [one[0] for one in (*await said("publications"), *await said("settings"))] == ["good", "good"]


async def test_doctor_names_what_of_the_machine_may_hurt() -> None:
    script = (
        f"ulimit -n 100; ulimit -f 200000; exec {sys.executable} -m indexer.cli.main doctor --no-database --json"
        " --chain devnet --rpc-url https://node.example/KEYKEYKEYKEYKEYKEY 2>/dev/null"
    )
    env = environment({"HTTPS_PROXY": "http://user:hidden@127.0.0.1:1", "PGHOST": "elsewhere"})
    done = await asyncio.to_thread(
        subprocess.run, ["bash", "-c", script], env=env, capture_output=True, text=True, check=False
    )
    found = {f["check"]: f for f in json.loads(done.stdout)["findings"] if f["subject"] == "this machine"}
    assert {check: f["level"] for check, f in found.items()} == {
        "PG variables": "note", "proxy": "note", "file descriptors": "note", "file size": "note"
    }  # fmt: skip
    assert "PGHOST" in found["PG variables"]["said"] and "http://127.0.0.1:1" in found["proxy"]["said"]
    assert "hidden" not in done.stdout and "KEYKEY" not in done.stdout


async def test_scores_are_stored_add_up_over_restarts_and_are_shown_without_secrets(
    fresh_database: Callable[[], str],
) -> None:
    url = fresh_database()
    await upgrade_async(url)
    async with StubNode(CHAIN_ID) as one, StubNode(CHAIN_ID) as two, StubNode(CHAIN_ID, 40) as behind:
        urls = [one.url, two.url, behind.url]
        for _ in range(2):  # two lives of a daemon
            pool = Pool(urls, CHAIN_ID)
            await pool.open()
            keeper = EndpointMonitor(
                pool, HeadFeed([f"{one.ws_url}?key={SECRET}"], 1), partial(connect, url), lambda: None
            )
            await keeper._health_checker.check_all()
            pool.set_aside(two.url, "left out log 3 of block 7", "omitting")
            pool.readers[0].endpoint.health.support.refused("eth_getBlockReceipts", 0, "not whitelisted")
            await keeper.save()
            await keeper.save()  # nothing is counted twice
            await pool.close()
        done = await program("endpoints", "--json", "--rpc-url", one.url, "--rpc-url", "http://never/", url=url)
    assert done.returncode == 0 and SECRET not in done.stdout, done.stderr
    rows = {row["endpoint"]: row for row in json.loads(done.stdout)["endpoints"]}
    assert rows[one.url]["state"] == "well" and rows[one.url]["configured"]
    assert (rows[one.url]["head"], rows[one.url]["lag_blocks"], rows[one.url]["requests"]) == (100, 0, 4)
    assert (rows[two.url]["state"], rows[two.url]["omissions"]) == ("omitting", 2)
    assert rows[two.url]["reason"] == "left out log 3 of block 7" and not rows[two.url]["configured"]
    assert (rows[behind.url]["state"], rows[behind.url]["lag_blocks"]) == ("lagging", 61)
    assert rows["http://never"]["state"] == "never asked"
    assert rows[one.url]["reason"] == "refuses eth_getBlockReceipts: not whitelisted"
    assert [row["kind"] for row in rows.values()].count("ws") == 1
    shown = await program("endpoints", url=url)
    assert shown.returncode == 0 and "…" not in shown.stdout.splitlines()[0]  # the head of the table fits
    assert "omitting" in shown.stdout and "left out log 3 of block 7" in " ".join(shown.stdout.split())
    assert f"{one.url} refuses eth_getBlockReceipts: not whitelisted" in " ".join(shown.stdout.split())


async def test_a_database_in_trouble_costs_scores_only() -> None:
    async with StubNode(CHAIN_ID) as node:
        pool = Pool([node.url], CHAIN_ID)
        await pool.open()
        keeper = EndpointMonitor(
            pool, HeadFeed([], 1), partial(connect, "postgresql://u:p@127.0.0.1:1/x"), lambda: None
        )
        await keeper.save()
        assert pool.readers[0].endpoint.health.pending_counts()["requests"] == 1  # told when it is back
        await pool.close()
