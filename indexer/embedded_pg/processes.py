"""Finds the running server of a data folder.

A process id alone is not enough: it may belong to a dead process, a zombie, or a process of something else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import EmbeddedServerError

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A live server. `ready`: it accepts connections. If not, it is starting, recovering or stopping."""

    pid: int
    port: int
    ready: bool


def postmaster(cluster: Path) -> Postmaster | None:
    """Return the process that the cluster's postmaster.pid names, if it is alive and is this cluster's server.

    Raises EmbeddedServerError when the cluster belongs to another user, because "not running" would be a guess.
    """
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except PermissionError as error:
        raise EmbeddedServerError(
            f"{cluster}: {error.strerror}", "Run as the user who started it, or use your own --data-dir"
        ) from error
    except (OSError, ValueError, IndexError):
        return None
    if not serves(pid, cluster):
        return None
    return Postmaster(pid, port, ready=len(lines) > 7 and lines[7].strip() == "ready")


def serves(pid: int, cluster: Path) -> bool:
    """Tell whether the process is alive, not a zombie, and a server of this cluster.

    PostgreSQL changes its working directory to the cluster's folder.
    """
    if pid <= 0:  # The temporary servers of initdb write their process id negated.
        return False
    if not _PROC.is_dir():
        return _alive(pid)
    process = _PROC / str(pid)
    try:
        if (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            return False
        return os.readlink(process / "cwd") == str(cluster.resolve())
    except PermissionError:
        # Root in a container without CAP_SYS_PTRACE may not read the cwd of another user's process. If the live server
        # were taken for dead, its postmaster.pid would be deleted.
        return _command_line_matches(process, cluster)
    except OSError:
        return False


def _command_line_matches(process: Path, cluster: Path) -> bool:
    """Tell whether the command line, which everybody may read, is that of a postmaster of this cluster."""
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
