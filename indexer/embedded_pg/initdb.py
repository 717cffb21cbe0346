"""Creates a cluster with initdb: complete or not at all, with a password that never appears on a command line."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from indexer.embedded_pg import binaries
from indexer.errors import EmbeddedServerError

USER = "reya"


def initialize(folder: Path, data_dir: Path, remedy: str) -> None:
    """Create DATA_DIR/postgres and DATA_DIR/password. Call with the data folder locked.

    initdb writes to a temporary folder next to the final place, which is then renamed, so that a kill half-way leaves
    nothing that looks like a cluster. Each attempt has its own folder, because the initdb of a killed program may still
    be writing. Raises EmbeddedServerError with `remedy`.
    """
    for leftover in (*data_dir.glob("postgres.new*"), *data_dir.glob("password.new*")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    password = secrets.token_urlsafe(24)
    _write_secret(data_dir / "password", password)
    password_file = data_dir / "password.new"
    new_cluster = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=data_dir))
    try:
        _write_secret(password_file, password)
        binaries.chown_to_server_user(password_file)
        binaries.chown_to_server_user(new_cluster)
        _initdb(folder, new_cluster, password_file, remedy)
        new_cluster.rename(data_dir / "postgres")
    finally:
        password_file.unlink(missing_ok=True)
        shutil.rmtree(new_cluster, ignore_errors=True)


def check_version(folder: Path, cluster: Path) -> None:
    """Raise EmbeddedServerError when another major version created the cluster."""
    created_by, available = (cluster / "PG_VERSION").read_text().strip(), binaries.version(folder)[0]
    if created_by != str(available):
        raise EmbeddedServerError(
            f"{cluster} was created by PostgreSQL {created_by}, but the programs are PostgreSQL {available}",
            f"Set --pg-bin to the bin directory of PostgreSQL {created_by}, or upgrade the data with pg_upgrade",
        )


def environment() -> dict[str, str]:
    """Return the programs' environment, without the caller's PG* variables and locale, which would change behavior."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def _initdb(folder: Path, target: Path, password_file: Path, remedy: str) -> None:
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if binaries.version(folder)[0] >= 17 else []
    command: list[str | Path] = [
        folder / "initdb", "--pgdata", target, "--username", USER, "--pwfile", password_file,
        "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", *locale,
    ]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", env=environment(), **binaries.server_user()
    )
    if result.returncode != 0:
        output = " ".join((result.stderr or result.stdout).split())[-300:]
        raise EmbeddedServerError(f"initdb failed in {target.parent}: {output}", remedy)


def _write_secret(path: Path, text: str) -> None:
    """Write a file with mode 0600 from the first byte, durably: nobody can open a cluster whose password is lost."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text + "\n")
        handle.flush()
        os.fsync(descriptor)
