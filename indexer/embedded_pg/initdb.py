"""A cluster made by initdb: whole or not there, with a password that never is on a command line."""

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
    """Makes DATA_DIR/postgres and DATA_DIR/password. To be called under the data folder's lock.

    initdb works beside the cluster's place, then a rename: killed half-way it leaves nothing that looks like a
    cluster. Each attempt has a folder of its own, because the initdb of a killed program may still be writing.
    """
    for left in (*data_dir.glob("postgres.new*"), *data_dir.glob("password.new*")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    password = secrets.token_urlsafe(24)
    _secret(data_dir / "password", password)
    handed = data_dir / "password.new"
    fresh = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=data_dir))
    try:
        _secret(handed, password)
        binaries.chown_to_server_user(handed)
        binaries.chown_to_server_user(fresh)
        _initdb(folder, fresh, handed, remedy)
        fresh.rename(data_dir / "postgres")
    finally:
        handed.unlink(missing_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)


def check_version(folder: Path, cluster: Path) -> None:
    """Raises EmbeddedServerError when another major version made the cluster."""
    made, found = (cluster / "PG_VERSION").read_text().strip(), binaries.version(folder)[0]
    if made != str(found):
        raise EmbeddedServerError(
            f"{cluster} was made by PostgreSQL {made}, the programs are PostgreSQL {found}",
            f"Name the bin folder of a PostgreSQL {made} with --pg-bin, or move the data with pg_upgrade",
        )


def environment() -> dict[str, str]:
    """No PG* variables and no locale of the caller's: they would change what the programs do."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def _initdb(folder: Path, target: Path, password_file: Path, remedy: str) -> None:
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if binaries.version(folder)[0] >= 17 else []
    command: list[str | Path] = [
        folder / "initdb", "--pgdata", target, "--username", USER, "--pwfile", password_file,
        "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", *locale,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", env=environment(), **binaries.server_user()
    )
    if done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split())[-300:]
        raise EmbeddedServerError(f"initdb failed in {target.parent}: {words}", remedy)


def _secret(path: Path, text: str) -> None:
    """Written with 0600 from the first byte, and durably: a cluster whose password is lost opens to nobody."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text + "\n")
        handle.flush()
        os.fsync(descriptor)
