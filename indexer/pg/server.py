"""The embedded PostgreSQL: initialised, started, found again and stopped by us, in a folder of ours.

DATA_DIR/postgres is the cluster, DATA_DIR/password and DATA_DIR/port are ours. The server outlives the program that
started it, so that a killed indexer costs no crash recovery; `reya-indexer db stop` ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg

from indexer.errors import EmbeddedServerError
from indexer.pg import binaries
from indexer.pg.processes import postmaster, working_in

USER = "reya"
START_LIMIT = 60.0  # seconds; crash recovery of a large database may take longer and gets RECOVERY_LIMIT
RECOVERY_LIMIT = 600.0
STOP_LIMIT = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "wal_compression": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_rotation_age": "1d",
    "log_truncate_on_rotation": "on",
}


@dataclass(frozen=True, slots=True)
class Status:
    """`version`: the cluster's major version, 0 before it was initialised."""

    running: bool
    pid: int | None
    port: int | None
    version: int
    data_dir: str


def default_data_dir() -> Path:
    """REYA_INDEXER_DATA_DIR; else /var/lib/reya-indexer for root, whose home the server's user could not enter; else
    the user's data folder."""
    named = os.environ.get("REYA_INDEXER_DATA_DIR")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/reya-indexer")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "reya-indexer"


def database_name(deployment: str) -> str:
    """One database per deployment."""
    return f"reya_indexer_{deployment}"


class EmbeddedServer:
    """The server of one data folder. Every method raises EmbeddedServerError with a remedy."""

    def __init__(self, data_dir: Path, pg_bin: Path | None = None) -> None:
        self.data_dir = Path(os.path.abspath(data_dir))
        self.cluster = self.data_dir / "postgres"
        self._pg_bin = pg_bin
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it unless it runs. Two programs that start at once get one server."""
        with self._locked():
            if postmaster(self.cluster):
                return
            folder = binaries.runnable(binaries.find(self._pg_bin), self.data_dir)
            if not (self.cluster / "PG_VERSION").exists():
                self._initialise(folder)
            self._check_version(folder)
            self._clear_stale_lock()
            for _ in range(3):
                if self._launch(folder, self._choose_port()):
                    return
                (self.data_dir / "port").unlink(missing_ok=True)
            raise EmbeddedServerError(f"PostgreSQL does not start: {self._last_words()}", self._remedy())

    def stop(self) -> bool:
        """Stops it, ending its connections. False when it was not running."""
        with self._locked():
            running = postmaster(self.cluster)
            if running is None:
                return False
            os.kill(running[0], signal.SIGINT)
            until = time.monotonic() + STOP_LIMIT
            while postmaster(self.cluster):
                if time.monotonic() > until:
                    raise EmbeddedServerError(f"PostgreSQL did not stop in {STOP_LIMIT:.0f} seconds", self._remedy())
                time.sleep(0.05)
            if self._child is not None:
                self._child.wait(STOP_LIMIT)
            return True

    def status(self) -> Status:
        running = postmaster(self.cluster)
        try:
            version = int((self.cluster / "PG_VERSION").read_text())
        except (OSError, ValueError):
            version = 0
        pid, port = running or (None, None)
        return Status(running is not None, pid, port, version, str(self.data_dir))

    def url(self, database: str) -> str:
        """The URL of a database of the running server, password included."""
        running = postmaster(self.cluster)
        if running is None:
            raise EmbeddedServerError("the embedded PostgreSQL is not running", "Start it: reya-indexer db start")
        return f"postgresql://{USER}:{quote(self._password())}@127.0.0.1:{running[1]}/{quote(database)}"

    def ensure_database(self, name: str) -> None:
        """Makes the database when it is not there. May be called inside or outside of an event loop."""
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(self._ensure_database(name))).result()

    async def _ensure_database(self, name: str) -> None:
        conn = await asyncpg.connect(self.url("postgres"), timeout=20)
        try:
            if await conn.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name) is None:
                with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                    await conn.execute(f"CREATE DATABASE \"{name}\" ENCODING 'UTF8' TEMPLATE template0")
        finally:
            await conn.close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
            handle = (self.data_dir / "lock").open("w")
        except OSError as error:
            raise EmbeddedServerError(
                f"--data-dir {self.data_dir}: {error.strerror}", "Name a folder that you may write to"
            ) from error
        if not binaries.can_enter(self.data_dir):
            handle.close()
            raise EmbeddedServerError(
                f"--data-dir {self.data_dir}: PostgreSQL's user {binaries.UNPRIVILEGED!r} may not enter",
                "Name a folder whose parents everybody may enter, such as /var/lib/reya-indexer",
            )
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _password(self) -> str:
        try:
            return (self.data_dir / "password").read_text().strip()
        except OSError as error:
            raise EmbeddedServerError(
                f"{self.data_dir}/password: {error.strerror}", "Run as the user who owns the data folder"
            ) from error

    def _initialise(self, folder: Path) -> None:
        """initdb beside its place, then a rename: a killed initdb leaves nothing that looks like a cluster."""
        fresh, password_file = self.data_dir / "postgres.new", self.data_dir / "password.new"
        shutil.rmtree(fresh, ignore_errors=True)
        password_file.unlink(missing_ok=True)
        fresh.mkdir(mode=0o700)
        binaries.give(fresh)
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, secrets.token_urlsafe(24).encode() + b"\n")
        os.close(descriptor)
        kept = self.data_dir / "password"
        shutil.copyfile(password_file, kept)
        kept.chmod(0o600)
        binaries.give(password_file)
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if binaries.major(folder) >= 17 else []
        done = subprocess.run(
            [
                folder / "initdb", "--pgdata", fresh, "--username", USER, "--pwfile", password_file,
                "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", *locale,
            ],
            capture_output=True, text=True, check=False, cwd="/", env=_environment(), **binaries.server_user(),
        )  # fmt: skip
        password_file.unlink(missing_ok=True)
        if done.returncode != 0:
            words = " ".join((done.stderr or done.stdout).split())[-300:]
            raise EmbeddedServerError(f"initdb failed in {self.data_dir}: {words}", self._remedy())
        fresh.rename(self.cluster)

    def _check_version(self, folder: Path) -> None:
        made, found = (self.cluster / "PG_VERSION").read_text().strip(), binaries.major(folder)
        if made != str(found):
            raise EmbeddedServerError(
                f"{self.cluster} was made by PostgreSQL {made}, the programs are PostgreSQL {found}",
                f"Name the bin folder of a PostgreSQL {made} with --pg-bin, or move the data with pg_upgrade",
            )

    def _clear_stale_lock(self) -> None:
        """postmaster.pid of a dead server: PostgreSQL itself takes a zombie for alive and would refuse for ever."""
        if self._child is not None:
            self._child.poll()
        until = time.monotonic() + STOP_LIMIT
        while working_in(self.cluster):  # backends of a killed postmaster must be gone, or two servers share files
            if time.monotonic() > until:
                raise EmbeddedServerError(
                    f"processes of an earlier server still work in {self.cluster}: {working_in(self.cluster)}",
                    "End them, then start again",
                )
            time.sleep(0.1)
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _choose_port(self) -> int:
        """The port used before, so that URLs stay valid, unless another program took it."""
        with contextlib.suppress(OSError, ValueError):
            stored = int((self.data_dir / "port").read_text())
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", stored))
            return stored
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        (self.data_dir / "port").write_text(f"{port}\n")
        return port

    def _launch(self, folder: Path, port: int) -> bool:
        """False when the server ended because its port was taken meanwhile."""
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with (self.data_dir / "start.log").open("wb") as log:
            self._child = subprocess.Popen(
                [folder / "postgres", "-D", self.cluster, "-p", str(port), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=_environment(),
                start_new_session=True, **binaries.server_user(),
            )  # fmt: skip
        started = time.monotonic()
        ask: list[str | Path] = [
            folder / "pg_isready",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            USER,
            "-d",
            "postgres",
        ]
        while subprocess.run(ask, check=False, env=_environment()).returncode != 0:
            if self._child.poll() is not None:
                if "could not bind" in self._last_words(whole=True):
                    return False
                raise EmbeddedServerError(f"PostgreSQL does not start: {self._last_words()}", self._remedy())
            limit = RECOVERY_LIMIT if "recovery" in self._last_words(whole=True) else START_LIMIT
            if time.monotonic() - started > limit:
                raise EmbeddedServerError(f"PostgreSQL did not start within {limit:.0f} seconds", self._remedy())
            time.sleep(0.05)
        return True

    def _last_words(self, *, whole: bool = False) -> str:
        """The end of the newest server log."""
        logs = [
            self.data_dir / "start.log",
            *sorted((self.cluster / "log").glob("*.log"), key=lambda p: p.stat().st_mtime),
        ]
        text = ""
        for log in logs:
            with contextlib.suppress(OSError), log.open("rb") as handle:
                handle.seek(max(0, log.stat().st_size - 8192))
                text += handle.read().decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return text if whole else (lines[-1][:300] if lines else "it said nothing")

    def _remedy(self) -> str:
        return f"See the logs in {self.data_dir} and {self.cluster}/log, or set DATABASE_URL to use another server"


def _environment() -> dict[str, str]:
    """No PG* variables and no locale of the caller's: they would change what the programs do."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}
