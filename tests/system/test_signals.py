"""The signals of a real daemon: /status beside `status --json`, where it listens, incidents in an operator's hands."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from indexer.db.connection import connection
from indexer.embedded_pg.server import EmbeddedServer
from indexer.errors import DatabaseUnreachableError
from tests.support.anvil.driver import Driver
from tests.support.anvil.node import AnvilNode, free_port
from tests.support.daemon import Daemon, get, run, wait_synced
from tests.support.waiting import until

LOOPBACK = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}"


def listening(pid: int) -> set[str]:
    """Addresses (hexadecimal, as the kernel says) on which a process accepts TCP connections."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()))
        except OSError:  # closed meanwhile
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1])
    return found


async def test_status_is_that_of_the_command_and_more_and_the_port_is_the_loopbacks(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url, port = fresh_database(), free_port()
    base = f"http://127.0.0.1:{port}"
    with AnvilNode() as node:
        driver = Driver(node, seed=15)
        driver.install()
        driver.play(20)
        driver.send([[driver.world.log("core", "Upgraded")], driver.world.oddities()])
        node.mine()
        env = {"DATABASE_URL": url, "REYA_RPC_URL": node.url}
        daemon = Daemon(["--http-port", str(port)], env, tmp_path / "log")
        try:
            await wait_synced(url, *node.head())
            driver.reorg(2)
            await wait_synced(url, *node.head())
            command = json.loads(run("status", "--json", env=env).stdout)
            asked = time.time()

            def read_since() -> Any:
                found = json.loads(get(f"{base}/status")[1])
                return found if found.get("as_of", 0) >= asked and found["live"]["ready"] else None

            served = until(read_since, "a status that was read after the command's")
            live = served.pop("live")
            assert served.pop("as_of") <= live["now"]
            # The auditor went on between the two.
            grades = [document.pop("attested") for document in (served, command)]
            assert [sorted(of) for of in grades] == [["cross-checked", "proven"]] * 2
            assert served == command
            assert live["ready"] and live["holds_lease"] and live["mode"] == "following"
            assert served["last_reorgs"][0]["depth"] == 2
            assert "core" in {upgrade["contract"] for upgrade in served["upgrades"]}
            scraped = {f.name: f for f in text_string_to_metric_families(get(f"{base}/metrics")[1])}
            calls = {(s.labels["method"], s.labels["outcome"]) for s in scraped["reya_indexer_rpc_calls"].samples}
            assert {("eth_getLogs", "ok"), ("eth_getBlockByNumber", "ok"), ("eth_chainId", "ok")} <= calls
            times = scraped["reya_indexer_proxy_upgraded_timestamp_seconds"].samples
            # The node's clock goes a second a block, however fast they are mined.
            assert abs(time.time() - next(s.value for s in times if s.labels["contract"] == "core")) < 86_400
            kinds = {s.labels["kind"]: s.value for s in scraped["reya_indexer_incidents_open"].samples}
            assert kinds["unknown_topic"] >= 1
            assert listening(daemon.process.pid) == {f"{LOOPBACK}:{port:04X}"}
            await closing_incidents(env, kinds)
        finally:
            assert daemon.terminate()[0] == 0


async def closing_incidents(env: dict[str, str], kinds: dict[str, float]) -> None:
    listed = json.loads(run("incidents", "list", "--json", env=env).stdout)
    assert len(listed) == sum(kinds.values())
    one = str(next(i["id"] for i in listed if i["kind"] == "unknown_topic"))
    assert run("incidents", "close", one, "--note", "an event that nobody needs", env=env).returncode == 0
    again = run("incidents", "close", one, "--note", "again", env=env)
    assert again.returncode == 31 and "no open incident" in again.stderr
    left = json.loads(run("incidents", "list", "--json", env=env).stdout)
    assert len(left) == len(listed) - 1 and one not in {str(i["id"]) for i in left}
    every = json.loads(run("incidents", "list", "--all", "--json", env=env).stdout)
    closed = next(i for i in every if str(i["id"]) == one)
    assert closed["resolved_at"] and closed["detail"].endswith("(closed: an event that nobody needs)")


async def test_verify_full_is_not_given_up_for_a_server_without_tls(server: EmbeddedServer, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("")
    url = server.url("postgres")
    async with connection(url):
        pass
    for wish in ("sslmode=verify-full", "sslmode=require", f"sslmode=verify-full&sslrootcert={authority}"):
        with pytest.raises(DatabaseUnreachableError):
            async with connection(f"{url}?{wish}"):
                pass
