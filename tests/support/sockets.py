"""What the kernel says about this machine's TCP sockets (IPv4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ESTABLISHED, LISTENING = "01", "0A"


def listens(port: int) -> bool:
    """Whether somebody accepts connections on the port."""
    return any(local == port and state == LISTENING for local, _, state in _sockets())


def connected_to(port: int) -> bool:
    """Whether a client has a connection to the port."""
    return any(remote == port and state == ESTABLISHED for _, remote, state in _sockets())


def _sockets() -> Iterator[tuple[int, int, str]]:
    """Local port, remote port and state of each."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        yield int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16), state
