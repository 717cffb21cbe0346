"""The embedded PostgreSQL server: initialized, started, found again and stopped by us, in our own data folder.

DATA_DIR/postgres is the cluster; DATA_DIR/password and DATA_DIR/port are files of ours. The server outlives the program
that started it, so that a killed indexer costs no crash recovery. `reya-indexer db stop` stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import asyncpg

from indexer.embedded_pg import binaries
from indexer.embedded_pg.initdb import USER, check_version, environment, initialize
from indexer.embedded_pg.processes import postmaster
from indexer.embedded_pg.server_log import ServerLog
from indexer.errors import EmbeddedServerError

START_TIMEOUT_S = 60.0  # Without crash recovery; that may take longer and gets RECOVERY_TIMEOUT_S.
RECOVERY_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 60.0
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
    """Status of the embedded server. `version`: the cluster's major version; 0 before it is initialized."""

    running: bool
    pid: int | None
    port: int | None
    version: int
    data_dir: str


def default_data_dir() -> Path:
    """Return REYA_INDEXER_DATA_DIR; else /var/lib/reya-indexer for root; else the user's data folder.

    Root's home is not used because the server's user could not enter it.
    """
    configured = os.environ.get("REYA_INDEXER_DATA_DIR")
    if configured:
        return Path(configured)
    if os.geteuid() == 0:
        return Path("/var/lib/reya-indexer")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "reya-indexer"


def database_name(deployment: str) -> str:
    """Return the name of the deployment's database (one database, one deployment)."""
    return f"reya_indexer_{deployment}"


# Servers that this process started. They are kept because a Popen that is collected while its process is alive raises a
# ResourceWarning, and polled because a dead process stays a zombie until then.
_CHILDREN: list[subprocess.Popen[bytes]] = []


class EmbeddedServer:
    """The server of one data folder, by default `default_data_dir()`.

    Every method raises EmbeddedServerError with a remedy.
    """

    def __init__(self, data_dir: Path | None = None, pg_bin: Path | None = None) -> None:
        self.data_dir = Path(os.path.abspath(data_dir or default_data_dir()))
        self.cluster = self.data_dir / "postgres"
        self._pg_bin = pg_bin

    def start(self) -> None:
        """Start the server unless it is running, and return when it accepts connections.

        Two programs that start it at the same time get one server.
        """
        with self._locked():
            claim = self._acquire_server_lock()
            if claim is None:
                return
            with claim:
                folder = binaries.runnable_copy(binaries.find(self._pg_bin), self.data_dir)
                if not (self.cluster / "PG_VERSION").exists():
                    self._refuse_damaged()
                    initialize(folder, self.data_dir, self._remedy())
                check_version(folder, self.cluster)
                for _ in range(3):
                    log = self._log()
                    if self._launch(folder, self._choose_port(), claim, log):
                        return
                    (self.data_dir / "port").unlink(missing_ok=True)
                raise EmbeddedServerError(f"PostgreSQL failed to start: {log.reason()}", self._remedy())

    def stop(self) -> bool:
        """Stop the server and end its connections. Returns False when it was not running."""
        if not self.data_dir.is_dir():
            return False
        with self._locked():
            running = postmaster(self.cluster)
            if running is None:
                return False
            try:
                os.kill(running.pid, signal.SIGINT)
            except PermissionError as error:
                raise EmbeddedServerError(
                    f"PostgreSQL (process {running.pid}) belongs to another user", "Stop it as the user who started it"
                ) from error
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while postmaster(self.cluster):
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"PostgreSQL did not stop within {STOP_TIMEOUT_S:.0f} seconds", self._remedy()
                    )
                time.sleep(0.05)
            claim = self._acquire_server_lock()  # This waits for the last of the server's processes.
            if claim:
                claim.close()
            for child in _CHILDREN:
                if child.pid == running.pid:
                    child.wait(STOP_TIMEOUT_S)
            return True

    @property
    def died(self) -> bool:
        """Whether a server ended that nobody stopped: one that is stopped removes its postmaster.pid."""
        return postmaster(self.cluster) is None and (self.cluster / "postmaster.pid").exists()

    def status(self) -> Status:
        """Return whether the server runs, and where."""
        running = postmaster(self.cluster)
        try:
            version = int((self.cluster / "PG_VERSION").read_text())
        except (OSError, ValueError):
            version = 0
        pid, port = (running.pid, running.port) if running else (None, None)
        return Status(running is not None, pid, port, version, str(self.data_dir))

    def url(self, database: str) -> str:
        """Return the URL of a database of the running server, including the password."""
        running = postmaster(self.cluster)
        if running is None:
            raise EmbeddedServerError("the embedded PostgreSQL is not running", "Start it with `reya-indexer db start`")
        return f"postgresql://{USER}:{quote(self._password())}@127.0.0.1:{running.port}/{quote(database)}"

    def ensure_database(self, name: str) -> None:
        """Create the database if it does not exist. May be called inside or outside an event loop."""
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(self._ensure_database(name))).result()

    async def _ensure_database(self, name: str) -> None:
        url, quoted = self.url("postgres"), name.replace('"', '""')
        try:
            conn = await asyncpg.connect(url, timeout=20)
            try:
                if await conn.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name) is None:
                    with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                        await conn.execute(f"CREATE DATABASE \"{quoted}\" ENCODING 'UTF8' TEMPLATE template0")
            finally:
                await conn.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise EmbeddedServerError(f"cannot create database {name!r}: {cause}", self._remedy()) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the data folder: one program at a time starts or stops the server, the others wait."""
        for child in _CHILDREN.copy():
            if child.poll() is not None:
                _CHILDREN.remove(child)
        try:
            missing = [folder for folder in (self.data_dir, *self.data_dir.parents) if not folder.exists()]
            self.data_dir.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                folder.chmod(0o755)  # Whatever the umask: the server's user must be able to enter.
            handle = (self.data_dir / "lock").open("w")
        except OSError as error:
            raise EmbeddedServerError(
                f"--data-dir {self.data_dir}: {error.strerror}", "Choose a directory that you can write to"
            ) from error
        with handle:
            if not binaries.can_enter(self.data_dir):
                raise EmbeddedServerError(
                    f"--data-dir {self.data_dir}: PostgreSQL's user {binaries.UNPRIVILEGED!r} cannot access it",
                    "Choose a directory whose parents are accessible to all users, such as /var/lib/reya-indexer",
                )
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _acquire_server_lock(self) -> IO[bytes] | None:
        """Acquire the right to run processes in this cluster; None when a server is ready or becomes ready meanwhile.

        The right is a locked file that every process of the server inherits; the kernel releases it when the last of
        them ends. Backends outlive a killed postmaster for a while, and a second server running at the same time as
        them, or as a server in another container on the same volume, would corrupt the files. A server whose starter
        was killed holds the lock before postmaster.pid shows it.
        """
        log, deadline = self._log(), time.monotonic() + STOP_TIMEOUT_S
        with contextlib.ExitStack() as on_failure:
            handle = on_failure.enter_context((self.data_dir / "server.lock").open("ab"))
            while not (postmaster(self.cluster) and self._becomes_ready(None, log)):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    on_failure.pop_all()
                    return handle
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"processes of another server are still using {self.cluster}",
                        "Stop them (here, or in another container that uses this directory), then start again",
                    )
                time.sleep(0.05)
        return None

    def _refuse_damaged(self) -> None:
        """Raise for a cluster that lost its PG_VERSION: initializing over it would overwrite its password."""
        if self.cluster.exists() and not (self.cluster.is_dir() and not any(self.cluster.iterdir())):
            raise EmbeddedServerError(
                f"{self.cluster} contains files but no PG_VERSION: not a PostgreSQL cluster, or a damaged one",
                "Restore it from a backup, or move it away to start with an empty database",
            )

    def _password(self) -> str:
        try:
            return (self.data_dir / "password").read_text().strip()
        except OSError as error:
            raise EmbeddedServerError(
                f"{self.data_dir}/password: {error.strerror}", "Run as the user who owns the data directory"
            ) from error

    def _choose_port(self) -> int:
        """Return the port used before, so that URLs stay valid, or a new one if another program has taken it."""
        with contextlib.suppress(OSError, ValueError, OverflowError):
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

    def _launch(self, folder: Path, port: int, claim: IO[bytes], log: ServerLog) -> bool:
        """Start the server and wait until it is ready; False when it ended because its port was taken meanwhile."""
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with (self.data_dir / "start.log").open("wb") as sink:
            # A dead server left this file. PostgreSQL takes a zombie for alive and would refuse to start forever.
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)
            child = subprocess.Popen(
                [folder / "postgres", "-D", self.cluster, "-p", str(port), *options],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd="/", env=environment(),
                start_new_session=True, pass_fds=[claim.fileno()], **binaries.server_user(),
            )  # fmt: skip
        _CHILDREN.append(child)
        if self._becomes_ready(child, log):
            return True
        log.complete()
        if "could not bind" in log.text():
            return False
        raise EmbeddedServerError(f"PostgreSQL failed to start: {log.reason()}", self._remedy())

    def _becomes_ready(self, child: subprocess.Popen[bytes] | None, log: ServerLog) -> bool:
        """Wait until the server accepts connections; False when it ended instead.

        `child` is None for a server that is already there: one that a killed program started may still be recovering,
        or be stopping. Readiness is read from postmaster.pid, not from the port, where another server may answer.
        """
        started = time.monotonic()
        while True:
            running = postmaster(self.cluster)
            if running and running.ready:
                return True
            if child.poll() is not None if child else running is None:
                return False
            recovering = child is None or "recovery" in log.text()
            limit = RECOVERY_TIMEOUT_S if recovering else START_TIMEOUT_S
            if time.monotonic() - started > limit:
                raise EmbeddedServerError(
                    f"PostgreSQL did not start within {limit:.0f} seconds: {log.reason()}", self._remedy()
                )
            time.sleep(0.05)

    def _log(self) -> ServerLog:
        return ServerLog(self.data_dir / "start.log", self.cluster / "log")

    def _remedy(self) -> str:
        return f"See the logs in {self.data_dir} and {self.cluster}/log, or set DATABASE_URL to use another server"
