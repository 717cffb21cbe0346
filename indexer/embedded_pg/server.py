"""The embedded PostgreSQL: initialised, started, found again and stopped by us, in a folder of ours.

DATA_DIR/postgres is the cluster, DATA_DIR/password and DATA_DIR/port are ours. The server outlives the program that
started it, so that a killed indexer costs no crash recovery; `reya-indexer db stop` ends it.
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

START_TIMEOUT_S = 60.0  # seconds; crash recovery of a large database may take longer and gets RECOVERY_TIMEOUT_S
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


# Servers that this process started. Kept, because a collected Popen of a live process is a ResourceWarning; polled,
# because a dead one stays a zombie until then.
_CHILDREN: list[subprocess.Popen[bytes]] = []


class EmbeddedServer:
    """The server of one data folder. Every method raises EmbeddedServerError with a remedy."""

    def __init__(self, data_dir: Path, pg_bin: Path | None = None) -> None:
        self.data_dir = Path(os.path.abspath(data_dir))
        self.cluster = self.data_dir / "postgres"
        self._pg_bin = pg_bin

    def start(self) -> None:
        """Starts it unless it runs; returns when it accepts connections. Two programs at once get one server."""
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
                raise EmbeddedServerError(f"PostgreSQL does not start: {log.reason()}", self._remedy())

    def stop(self) -> bool:
        """Stops it, ending its connections. False when it was not running."""
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
                    f"PostgreSQL (process {running.pid}) is another user's", "Stop it as the user who started it"
                ) from error
            until = time.monotonic() + STOP_TIMEOUT_S
            while postmaster(self.cluster):
                if time.monotonic() > until:
                    raise EmbeddedServerError(
                        f"PostgreSQL did not stop in {STOP_TIMEOUT_S:.0f} seconds", self._remedy()
                    )
                time.sleep(0.05)
            claim = self._acquire_server_lock()  # waits for the last of its processes
            if claim:
                claim.close()
            for child in _CHILDREN:
                if child.pid == running.pid:
                    child.wait(STOP_TIMEOUT_S)
            return True

    def status(self) -> Status:
        running = postmaster(self.cluster)
        try:
            version = int((self.cluster / "PG_VERSION").read_text())
        except (OSError, ValueError):
            version = 0
        pid, port = (running.pid, running.port) if running else (None, None)
        return Status(running is not None, pid, port, version, str(self.data_dir))

    def url(self, database: str) -> str:
        """The URL of a database of the running server, password included."""
        running = postmaster(self.cluster)
        if running is None:
            raise EmbeddedServerError("the embedded PostgreSQL is not running", "Start it: reya-indexer db start")
        return f"postgresql://{USER}:{quote(self._password())}@127.0.0.1:{running.port}/{quote(database)}"

    def ensure_database(self, name: str) -> None:
        """Makes the database when it is not there. May be called inside or outside of an event loop."""
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
            raise EmbeddedServerError(f"database {name!r} cannot be made: {cause}", self._remedy()) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One starter or stopper at a time; the others wait."""
        for child in _CHILDREN.copy():
            if child.poll() is not None:
                _CHILDREN.remove(child)
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
            handle = (self.data_dir / "lock").open("w")
        except OSError as error:
            raise EmbeddedServerError(
                f"--data-dir {self.data_dir}: {error.strerror}", "Name a folder that you may write to"
            ) from error
        with handle:
            if not binaries.can_enter(self.data_dir):
                raise EmbeddedServerError(
                    f"--data-dir {self.data_dir}: PostgreSQL's user {binaries.UNPRIVILEGED!r} may not enter",
                    "Name a folder whose parents everybody may enter, such as /var/lib/reya-indexer",
                )
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _acquire_server_lock(self) -> IO[bytes] | None:
        """The right to run processes in this cluster; None when a server runs and is ready, or becomes so meanwhile.

        It is a locked file, which every process of the server inherits and which the kernel frees when the last of
        them is gone. Backends outlive a killed postmaster for a while; a second server beside them, or beside one in
        another container on the same volume, would ruin the files. A server whose starter was killed holds it before
        postmaster.pid tells of it.
        """
        log, until = self._log(), time.monotonic() + STOP_TIMEOUT_S
        with contextlib.ExitStack() as on_failure:
            handle = on_failure.enter_context((self.data_dir / "server.lock").open("ab"))
            while not (postmaster(self.cluster) and self._becomes_ready(None, log)):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    on_failure.pop_all()
                    return handle
                if time.monotonic() > until:
                    raise EmbeddedServerError(
                        f"processes of another server still work in {self.cluster}",
                        "End them (here or in another container with this folder), then start again",
                    )
                time.sleep(0.05)
        return None

    def _refuse_damaged(self) -> None:
        """A cluster that lost its PG_VERSION is no empty place: a new one would cost it its password."""
        if self.cluster.exists() and not (self.cluster.is_dir() and not any(self.cluster.iterdir())):
            raise EmbeddedServerError(
                f"{self.cluster} holds files but no PG_VERSION: no cluster, or a damaged one",
                "Restore it from a backup, or move it away to begin with an empty database",
            )

    def _password(self) -> str:
        try:
            return (self.data_dir / "password").read_text().strip()
        except OSError as error:
            raise EmbeddedServerError(
                f"{self.data_dir}/password: {error.strerror}", "Run as the user who owns the data folder"
            ) from error

    def _choose_port(self) -> int:
        """The port used before, so that URLs stay valid, unless another program took it."""
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
        """False when the server ended because its port was taken meanwhile."""
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with (self.data_dir / "start.log").open("wb") as sink:
            # Left by a dead server. PostgreSQL itself takes a zombie for alive and would refuse for ever.
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
        raise EmbeddedServerError(f"PostgreSQL does not start: {log.reason()}", self._remedy())

    def _becomes_ready(self, child: subprocess.Popen[bytes] | None, log: ServerLog) -> bool:
        """Waits until the server accepts connections; False when it ended instead.

        `child` is None for a server that is there already: a killed program's may still recover, or be stopping.
        postmaster.pid tells, not the port: on that another server may answer.
        """
        started = time.monotonic()
        while True:
            running = postmaster(self.cluster)
            if running and running.ready:
                return True
            if child.poll() is not None if child else running is None:
                return False
            recovers = child is None or "recovery" in log.text()
            limit = RECOVERY_TIMEOUT_S if recovers else START_TIMEOUT_S
            if time.monotonic() - started > limit:
                raise EmbeddedServerError(
                    f"PostgreSQL did not start within {limit:.0f} seconds: {log.reason()}", self._remedy()
                )
            time.sleep(0.05)

    def _log(self) -> ServerLog:
        return ServerLog(self.data_dir / "start.log", self.cluster / "log")

    def _remedy(self) -> str:
        return f"See the logs in {self.data_dir} and {self.cluster}/log, or set DATABASE_URL to use another server"
