"""Is a server of this data folder running? A process id alone does not tell: it may be dead, a zombie, or another's."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def postmaster(cluster: Path) -> tuple[int, int] | None:
    """(process id, port) that the cluster's postmaster.pid names, when that process lives and is its server."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (OSError, ValueError, IndexError):
        return None
    return (pid, port) if serves(pid, cluster) else None


def serves(pid: int, cluster: Path) -> bool:
    """Whether the process lives, is no zombie, and works in this data folder (PostgreSQL's processes change to it)."""
    if not _PROC.is_dir():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    try:
        state = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
        if state in "ZX":
            return False
        return os.readlink(_PROC / str(pid) / "cwd") == str(cluster.resolve())
    except OSError:
        return False


def working_in(cluster: Path) -> list[int]:
    """Live processes of this data folder's server: after a kill -9 of the postmaster its backends live on a while."""
    if not _PROC.is_dir():
        return []
    return [int(p.name) for p in _PROC.iterdir() if p.name.isdigit() and serves(int(p.name), cluster)]
