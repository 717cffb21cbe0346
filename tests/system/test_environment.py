"""The shell, the database's encoding and the URL: none of them decides in silence where and how the program works."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from indexer.embedded_pg.processes import postmaster
from indexer.embedded_pg.server import EmbeddedServer
from tests.support.anvil.node import AnvilNode, free_port
from tests.support.daemon import PROGRAM, Daemon, environment, get, run, wait_synced
from tests.support.sockets import connected_to
from tests.support.waiting import PATIENCE, until

HOSTILE = {
    "PGHOST": "192.0.2.1", "PGHOSTADDR": "192.0.2.1", "PGPORT": "1", "PGUSER": "nobody", "PGDATABASE": "elsewhere",
    "PGPASSWORD": "wrong", "PGSERVICE": "none", "PGSSLMODE": "verify-full", "PGTARGETSESSIONATTRS": "standby",
    "PGOPTIONS": "-c search_path=elsewhere -c default_transaction_read_only=on", "PGREQUIREPEER": "nobody",
    "PGSSLROOTCERT": "/none", "PGCONNECT_TIMEOUT": "1", "PGCLIENTENCODING": "LATIN1", "PGTZ": "Asia/Tokyo",
}  # fmt: skip


def one_line(done_stderr: str) -> str:
    lines = [line for line in done_stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1 and "Traceback" not in done_stderr, done_stderr
    return lines[0]


def test_o05_the_shells_pg_variables_do_not_decide_where_we_work(fresh_database: Callable[[], str]) -> None:
    env = HOSTILE | {"DATABASE_URL": fresh_database()}
    with AnvilNode() as node:
        node.mine(30)
        done = run("backfill", "--from-block", "0", "--rpc-url", node.url, env=env)
        assert done.returncode == 0, done.stderr
    shown = run("status", "--json", env=env)
    assert shown.returncode == 0 and json.loads(shown.stdout)["chain"] == "reya", shown.stderr
    if shutil.which("psql"):
        asked = run("db", "exec", "--", "psql", "-tAc", "SELECT current_database(), current_user", env=env)
        name, user = asked.stdout.strip().split("|")
        assert (name, user != "nobody") == (env["DATABASE_URL"].rpartition("/")[2], True), asked.stderr
        opened = run("db", "psql", "--", "-tAc", "SELECT current_database()", env=env)
        assert opened.stdout.strip() == name, opened.stderr


def test_o05_the_embedded_server_starts_under_any_pg_variables(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    folder = Path("/tmp") / f"reya-indexer-o05-{tmp_path.name}"
    try:
        done = run("db", "start", "--data-dir", str(folder), env=HOSTILE)
        assert done.returncode == 0, done.stderr
        assert run("db", "stop", "--data-dir", str(folder), env=HOSTILE).returncode == 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_o08_a_database_that_cannot_hold_every_name_is_refused(
    encoding: str, fresh_database: Callable[[], str]
) -> None:
    base = fresh_database()
    name = f"{base.rpartition('/')[2]}_{encoding.lower()}"
    conn = await asyncpg.connect(base)
    try:
        await conn.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
        url = f"{base.rpartition('/')[0]}/{name}"
        for command in (["run"], ["backfill", "--from-block", "0"], ["migrate"], ["status"], ["check"]):
            endpoint = ["--rpc-url", f"http://127.0.0.1:{free_port()}"] if command[0] in ("run", "backfill") else []
            with AnvilNode() as node:
                endpoint = ["--rpc-url", node.url] if endpoint else []
                done = run(*command, *endpoint, env={"DATABASE_URL": url, "REYA_INDEXER_LOG_FORMAT": "json"})
            assert done.returncode == 18, (command, done.stderr)
            assert encoding in one_line(done.stderr) and "ENCODING 'UTF8'" in done.stderr
        tables = await (other := await asyncpg.connect(url)).fetchval(
            "SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'indexer')"
        )
        await other.close()
        assert tables == 0
    finally:
        await conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await conn.close()


async def test_o06_no_host_with_the_demanded_attributes_is_one_line(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    done = run("migrate", env={"DATABASE_URL": url + "?target_session_attrs=standby"})
    line = one_line(done.stderr)
    assert done.returncode == 18 and "target_session_attrs" in line and "Promote" in line


async def test_o11_what_a_url_may_say(fresh_database: Callable[[], str]) -> None:
    url = fresh_database()
    copied = "schema=public&connection_limit=5&pool_timeout=9&pgbouncer=true&connect_timeout=10&keepalives=1"
    done = run("migrate", env={"DATABASE_URL": f"{url}?{copied}&channel_binding=prefer&gssencmode=prefer"})
    assert done.returncode == 0, done.stderr
    for parameter, words in (("schema=other", "schema=other"), ("no_such_setting=1", "no_such_setting")):
        done = run("status", env={"DATABASE_URL": f"{url}?{parameter}"})
        line = one_line(done.stderr)
        assert done.returncode == 18 and words in line and "emove" in line, line


# -- output that cannot be written


def shell(command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    line = f"{shlex.join(PROGRAM)} {command}"
    return subprocess.run(
        ["bash", "-c", line], env=environment(env), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_o04_an_answer_that_cannot_be_written_is_one_line() -> None:
    done = shell("config show > /dev/full", {})
    assert done.returncode == 1 and "stdout: No space left on device" in one_line(done.stderr)
    done = shell("db columns | head -1", {})
    assert done.stdout.strip() and done.stderr == ""


@pytest.mark.parametrize("redirect", ["2> /dev/full", "2>&-", "2>&1 >&- | true", "2>&- >&- <&-"])
def test_o04_a_command_ends_with_its_code_though_nothing_can_be_told(redirect: str) -> None:
    done = shell(f"config show --chain nowhere {redirect}; exit ${{PIPESTATUS[0]}}", {})
    assert done.returncode == 10 and done.stdout == "", done


@pytest.mark.parametrize("log", ["full disk", "closed", "broken pipe", "file size limit"])
async def test_o04_a_daemon_whose_log_cannot_be_written_goes_on(
    log: str, tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    url, port = fresh_database(), free_port()
    redirect = {
        "full disk": "2> /dev/full", "closed": "2>&-", "broken pipe": "2> >(exec 0<&-; true)",
        "file size limit": f"2> {tmp_path}/log",
    }[log]  # fmt: skip
    limit = "ulimit -f 1; " if log == "file size limit" else ""
    with AnvilNode() as node:
        node.mine(20)
        command = f"{limit}exec {shlex.join(PROGRAM)} run -v --http-port {port} --rpc-url {node.url} {redirect}"
        daemon = subprocess.Popen(["bash", "-c", command], env=environment({"DATABASE_URL": url}))
        try:
            await wait_synced(url, *node.head())
            for _ in range(30):
                node.mine(1)
            await wait_synced(url, *node.head())
            lost = re.search(r"log_lines_lost_total (\d+)", get(f"http://127.0.0.1:{port}/metrics")[1])
            assert lost is not None and int(lost[1]) > 0
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE) == 0


def test_o13_what_an_encoding_lacks_is_replaced() -> None:
    for encoding in ("ascii", "iso-8859-1"):
        env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        done = run("config", "show", "--chain", "наша", env=env)
        assert done.returncode == 10 and "??" in one_line(done.stderr)
        assert run("db", "columns", env=env).returncode == 0


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_o13_no_color_and_dumb_terminals_are_honored(env: dict[str, str]) -> None:
    script = "from indexer.runtime import log_setup, shell; import structlog; log_setup.configure('console');" \
             "structlog.get_logger().info('hello', n=1)"  # fmt: skip
    code = f"import pty, sys; sys.exit(pty.spawn([sys.executable, '-c', {script!r}]))"
    done = subprocess.run([sys.executable, "-c", code], env=environment({"TERM": "xterm"} | env), capture_output=True,
                          timeout=PATIENCE, check=True)  # fmt: skip
    assert b"hello" in done.stdout and b"\x1b[" not in done.stdout


# -- a wait that a signal must end


@contextlib.contextmanager
def mute_server() -> Iterator[int]:
    """Accepts connections, or nothing at all once its queue is full, and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield listening.getsockname()[1]


WAITING_FOR_DATABASE = (
    "run --http-port 0 --rpc-url {node}", "backfill --from-block 0 --rpc-url {node}", "migrate", "migrate --check",
    "status", "check", "check --recompute", "verify --rpc-url {node}", "reproject", "doctor", "incidents list",
    "endpoints", "reorg plan --rpc-url {node}", "reorg verify --rpc-url {node}", "db roles --dry-run",
)  # fmt: skip
WAITING_FOR_ENDPOINT = ("run --http-port 0", "backfill --from-block 0", "verify", "doctor", "reorg plan", "status")


def ended_by(number: int, command: str, env: dict[str, str], waiting: Callable[[], bool]) -> float:
    """Seconds from a signal to the end of a command that waits."""
    process = subprocess.Popen(
        [*PROGRAM, *command.split()], env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: waiting() or process.poll() is not None, f"{command} waits")
        process.send_signal(number)
        asked = time.monotonic()
        out, err = process.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - asked
    finally:
        process.kill()
    assert process.returncode == (0 if command.startswith("run") else 130), (command, process.returncode, err)
    assert "Traceback" not in err and "Traceback" not in out, (command, err)
    return seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("command", WAITING_FOR_DATABASE)
def test_o14_a_signal_ends_the_wait_for_a_database(command: str, number: int, busy_seconds: float) -> None:
    with AnvilNode() as node, mute_server() as port:
        node.mine(3)
        env = {"DATABASE_URL": f"postgresql://u:p@127.0.0.1:{port}/d", "REYA_INDEXER_LOG_FORMAT": "json"}
        seconds = ended_by(number, command.format(node=node.url), env, lambda: connected_to(port))
    assert seconds < 12 + busy_seconds  # 5 s on an idle machine; it was 17 to 39


@pytest.mark.parametrize("command", WAITING_FOR_ENDPOINT)
def test_o14_a_signal_ends_the_wait_for_an_endpoint(
    command: str, busy_seconds: float, fresh_database: Callable[[], str]
) -> None:
    with mute_server() as port:
        env = {"DATABASE_URL": fresh_database(), "REYA_RPC_URL": f"http://127.0.0.1:{port}"}
        seconds = ended_by(signal.SIGTERM, command, env, lambda: connected_to(port))
    assert seconds < 12 + busy_seconds  # 5 s on an idle machine; it was 17 to 39


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a process 1 needs root and unshare")
def test_o14_process_1_ends_at_once(busy_seconds: float) -> None:
    with mute_server() as port:
        env = environment({"DATABASE_URL": f"postgresql://u:p@127.0.0.1:{port}/d"})
        process = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", *PROGRAM, "status"], env=env)
        try:
            until(lambda: connected_to(port), "it waits")
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(child), signal.SIGTERM)
            asked = time.monotonic()
            assert process.wait(PATIENCE) == 130 and time.monotonic() - asked < 12 + busy_seconds
        finally:
            process.kill()


@pytest.fixture
def busy_seconds() -> float:
    """How much longer something takes on this machine now than on an idle one: a program that does nothing (s)."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return 40 * max(0.0, time.monotonic() - started - 0.05)


# -- what changes while the program runs


async def test_o03_a_password_that_is_rotated_in_its_file_is_used(
    tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    base, role, file = fresh_database(), f"rotated_{os.getpid()}", tmp_path / "url"
    admin = await asyncpg.connect(base)
    database = base.rpartition("/")[2]
    host = base.rpartition("@")[2]
    try:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pw-0ne'; ALTER DATABASE {database} OWNER TO {role}")
        await admin.execute(f"GRANT ALL ON SCHEMA public TO {role}")
        file.write_text(f"postgresql://{role}:pw-0ne@{host}\n")
        with AnvilNode() as node:
            node.mine(5)
            env = {"DATABASE_URL_FILE": str(file), "REYA_RPC_URL": node.url}
            daemon = Daemon(["--http-port", "0"], env, tmp_path / "log")
            await wait_synced(base, *node.head())
            # Rotated, the old one is refused from now on, and then a failover ends every connection.
            await admin.execute(f"ALTER ROLE {role} PASSWORD 'pw-tw0'")
            file.write_text(f"postgresql://{role}:pw-tw0@{host}\n")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
            node.mine(5)
            await wait_synced(base, *node.head())
            assert daemon.terminate()[0] == 0
        assert "pw-" not in (tmp_path / "log").read_text()
    finally:
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
        await admin.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")
        await admin.close()


@pytest.mark.parametrize("end", ["killed", "stopped", "stopped by its own signal"])
async def test_o17_an_embedded_server_that_ends_is_started_again_or_ends_the_program(end: str, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="reya-indexer-o17-", dir="/tmp"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder)
    try:
        with AnvilNode() as node:
            node.mine(5)
            env = {"REYA_INDEXER_DATA_DIR": str(folder), "REYA_RPC_URL": node.url}
            daemon = Daemon(["--http-port", "0"], env, tmp_path / "log")
            until(lambda: server.status().running and "following" in (tmp_path / "log").read_text(), "it follows")
            url = server.url("reya_indexer_reya")
            await wait_synced(url, *node.head())
            if end != "killed":
                if end == "stopped":
                    assert run("db", "stop", env=env).returncode == 0
                else:  # As pg_ctl does it: perhaps to move the cluster away and restore a backup.
                    os.kill(server.status().pid or 0, signal.SIGINT)
                assert daemon.process.wait(PATIENCE) == 19
                assert "was stopped" in (tmp_path / "log").read_text() and not server.status().running
                return
            pid = server.status().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            node.mine(5)
            until(lambda: (now := postmaster(server.cluster)) and now.pid != pid and now.ready, "it is started again")
            await wait_synced(url, *node.head())
            assert daemon.terminate()[0] == 0
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as another user")
def test_o12_a_umask_does_not_lock_the_server_out() -> None:
    base = Path(tempfile.mkdtemp(prefix="reya-indexer-o12-", dir="/tmp"))
    base.chmod(0o755)
    try:
        env = {"REYA_INDEXER_DATA_DIR": str(base / "made" / "by us")}
        done = shell("db start", env | {"BASH_ENV": str(umask(base))})
        assert done.returncode == 0, done.stderr
        assert shell("db stop", env).returncode == 0
    finally:
        shutil.rmtree(base, ignore_errors=True)


def umask(folder: Path) -> Path:
    """A file that bash reads first, and that makes new files and folders their owner's alone."""
    path = folder / "bashrc"
    path.write_text("umask 077\n")
    return path
