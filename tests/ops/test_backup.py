"""docs/how-to/backup-and-restore.md, word by word: its commands are read from the page and run, with a chain that
grows and reorgs."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from indexer.embedded_pg.server import EmbeddedServer, database_name
from tests.support.anvil.driver import Driver
from tests.support.anvil.node import AnvilNode
from tests.support.daemon import Daemon, environment, run, wait_synced
from tests.support.waiting import PATIENCE
from tests.system.truth import assert_equals_truth

pytestmark = pytest.mark.ops
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "backup-and-restore.md"
ORDER = ["dump", "lose", "restore", "start", "check", "cold-copy", "cold-lose", "cold-restore"]


def commands() -> dict[str, str]:
    """The page's blocks that are marked with a name."""
    found = re.findall(r"^```sh (\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert [name for name, _ in found] == ORDER
    return dict(found)


class Machine:
    """An operator's shell, with the embedded PostgreSQL in a folder of its own."""

    def __init__(self, folder: Path, node: AnvilNode) -> None:
        self.folder, self.data = folder, folder / "data"
        self.env = {"REYA_INDEXER_DATA_DIR": str(self.data), "REYA_RPC_URL": node.url}
        self.blocks = commands()

    def do(self, block: str) -> None:
        env = environment(self.env)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.blocks[block]], cwd=self.folder, timeout=PATIENCE, check=False,
            env=env | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"

    def daemon(self) -> Daemon:
        program, command, *arguments = self.blocks["start"].split()
        assert (program, command) == ("reya-indexer", "run")
        return Daemon([*arguments, "--http-port", "0"], self.env, self.folder / "log")

    @property
    def url(self) -> str:
        return EmbeddedServer(self.data).url(database_name("reya"))


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="reya-indexer-backup-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    run("db", "stop", env={"REYA_INDEXER_DATA_DIR": str(made / "data")})
    shutil.rmtree(made, ignore_errors=True)


async def facts(url: str) -> dict[str, object]:
    conn = await asyncpg.connect(url)
    try:
        return {
            "zone": await conn.fetchval("SHOW timezone"),
            "reorgs": await conn.fetchval("SELECT count(*) FROM indexer.reorg_journal"),
            "orphans": await conn.fetchval("SELECT count(*) FROM indexer.orphaned_row"),
            "notes": await conn.fetchval('SELECT count(*) FROM public."WalletDetails"'),
        }
    finally:
        await conn.close()


async def test_dump_lose_restore_catch_up_and_check(folder: Path) -> None:
    with AnvilNode() as node:
        machine, driver = Machine(folder, node), Driver(node, seed=12)
        driver.install()
        driver.play(25)
        daemon = machine.daemon()
        daemon.wait_for("following")
        url = machine.url
        await wait_synced(url, *node.head())
        driver.reorg(3)
        await wait_synced(url, *node.head())
        conn = await asyncpg.connect(url)
        await conn.execute("""INSERT INTO public."WalletDetails" VALUES ('0x1', 'an application', 'its own row')""")
        await conn.close()
        await asyncio.to_thread(machine.do, "dump")  # while the daemon runs
        before = await facts(url)
        assert (before["reorgs"], before["notes"], before["zone"]) == (1, 1, "UTC")
        driver.play(3)
        await wait_synced(url, *node.head())
        assert daemon.terminate()[0] == 0
        driver.reorg(6)  # blocks that the dump has are not on the chain any more
        driver.play(10)
        await asyncio.to_thread(machine.do, "lose")
        await asyncio.to_thread(machine.do, "restore")
        assert await facts(machine.url) == before
        await caught_up(machine, driver)
        machine.do("check")
        assert (await facts(machine.url))["reorgs"] == 2

        machine.do("cold-copy")
        driver.play(4)
        machine.do("cold-lose")
        assert not machine.data.exists()
        machine.do("cold-restore")
        await caught_up(machine, driver)
        machine.do("check")


async def caught_up(machine: Machine, driver: Driver) -> None:
    daemon = machine.daemon()
    daemon.wait_for("following")
    await wait_synced(machine.url, *driver.node.head())
    assert daemon.terminate()[0] == 0
    await assert_equals_truth(machine.url, driver)
