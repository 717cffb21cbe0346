"""Every PostgreSQL that the program supports: tables made, a chain followed through reorgs, healed, projected again."""

from __future__ import annotations

import asyncio
import json
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.embedded_pg.server import EmbeddedServer
from tests.chaos.databases import Databases
from tests.chaos.truth import CONFIG
from tests.scenarios.harness import Stage
from tests.support.daemon import run

PACKAGES = Path(__file__).parents[1] / "support" / "postgres_versions"
NEWEST = 18  # The bundled one, which all other tests use.
OLDER = sorted(
    int(name.removeprefix("postgres-"))
    for name in json.loads((PACKAGES / "package.json").read_text())["dependencies"]
)  # fmt: skip

pytestmark = [
    pytest.mark.ops,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the packages are built for x86_64"),
]


def installed(version: int) -> Path:
    """The folder of the programs, with the links that the package's own script would make."""
    package = PACKAGES / "node_modules" / f"postgres-{version}"
    if not package.is_dir():
        pytest.fail(f"{package} is missing: `make test-ops` installs it (.ci/ops-packages)")
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        source, target = package / link["source"], package / link["target"]
        if not target.exists():
            target.symlink_to(source.name)
    return package / "native" / "bin"


@pytest.fixture(params=OLDER, ids=[f"PostgreSQL-{version}" for version in OLDER])
def old_server(request: pytest.FixtureRequest) -> Iterator[tuple[int, EmbeddedServer]]:
    folder = Path(tempfile.mkdtemp(prefix="reya-indexer-version-", dir="/tmp"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder, installed(request.param))
    server.start()
    try:
        yield request.param, server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_oldest_to_the_newest_are_tried() -> None:
    assert list(range(14, NEWEST)) == OLDER


async def test_a_chain_is_followed_through_reorgs_and_projected_again(old_server: tuple[int, EmbeddedServer]) -> None:
    version, server = old_server
    databases = Databases(server)
    url = await databases.make()
    async with Stage(url, f"PostgreSQL {version}") as stage:
        assert re.match(rf"{version}\.", await stage.value("SHOW server_version"))
        daemon = await stage.start()
        for depth in (1, 7, 30):
            tip = stage.tree[stage.nodes[0].head]
            stage.show(stage.fork(f"r{depth}", tip.number - depth, depth + 2, tip))
            await daemon.settle()
        tip = stage.tree[stage.nodes[0].head]
        await stage.equals(tip, None)
        await daemon.stop()
        stage.daemons.remove(daemon)

        arguments = ("--chain", str(CONFIG))
        env = {"DATABASE_URL": url, "DEVNET_RPC_URL": stage.nodes[0].url}
        for command in ("reproject", "check --recompute --json", "verify --yes --grade proven --json", "status --json"):
            done = await asyncio.to_thread(run, *command.split(), *arguments, env=env)
            assert done.returncode == 0, (command, done.stderr, done.stdout)
        await stage.equals(tip, None)
        done = await asyncio.to_thread(run, "doctor", "--json", *arguments, env=env)
        levels = {
            f["check"]: f["level"] for f in json.loads(done.stdout)["findings"] if f["subject"].startswith("postgres")
        }
        assert levels["version"] == levels["tables"] == levels["triggers"] == levels["settings"] == "good", levels
    await databases.drop(url)
    await databases.close()
