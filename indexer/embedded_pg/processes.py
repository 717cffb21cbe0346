"""Is a server of this data folder running? A process id alone does not tell: it may be dead, a zombie, or another's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import EmbeddedServerError

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A live server. `ready`: it accepts connections; before that it starts or recovers, later it stops."""

    pid: int
    port: int
    ready: bool


def postmaster(cluster: Path) -> Postmaster | None:
    """The process that the cluster's postmaster.pid names, when it lives and is this cluster's server.

    Raises EmbeddedServerError when the cluster is another user's: "not running" would be a guess.
    """
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except PermissionError as error:
        raise EmbeddedServerError(
            f"{cluster}: {error.strerror}", "Run as the user who started it, or name a --data-dir of your own"
        ) from error
    except (OSError, ValueError, IndexError):
        return None
    if not serves(pid, cluster):
        return None
    return Postmaster(pid, port, ready=len(lines) > 7 and lines[7].strip() == "ready")


def serves(pid: int, cluster: Path) -> bool:
    """Whether the process lives, is no zombie, and is a server of this folder (PostgreSQL changes to its folder)."""
    if pid <= 0:  # initdb's own servers write their id negated
        return False
    if not _PROC.is_dir():
        return _alive(pid)
    process = _PROC / str(pid)
    try:
        if (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            return False
        return os.readlink(process / "cwd") == str(cluster.resolve())
    except PermissionError:
        # Root in a container without CAP_SYS_PTRACE may not read cwd of another user's process. Taken for dead, the
        # live server would lose its postmaster.pid.
        return _named(process, cluster)
    except OSError:
        return False


def _named(process: Path, cluster: Path) -> bool:
    """Whether the command line, which everybody may read, is a postmaster's of this cluster."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    if not words[0].endswith(b"postgres"):
        return False
    return str(cluster.resolve()) in {os.path.realpath(os.fsdecode(word)) for word in words[1:] if word[:1] == b"/"}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
