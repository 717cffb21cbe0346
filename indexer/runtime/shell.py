"""What the shell hands to a process: standard streams, colors, and PostgreSQL's PG* variables.

A log's disk fills, its reader goes away, a terminal knows only ASCII: none of that may stop blocks from being indexed.
What is lost is counted, and the program goes on or ends with one line.

Driver and PostgreSQL's own programs fill in whatever a URL leaves open from the PG* variables: another host address,
service, TLS mode or role than the deployment's. They are removed before anything connects, because the shell must not
decide which database this program works on.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import MutableMapping
from io import TextIOWrapper

# All but PGPASSFILE, because where passwords are kept says nothing about where we work.
# https://www.postgresql.org/docs/current/libpq-envars.html
_LIBPQ = frozenset(
    ["PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGREQUIREAUTH", "PGCHANNELBINDING",
     "PGSERVICE", "PGSERVICEFILE", "PGOPTIONS", "PGAPPNAME", "PGSSLMODE", "PGREQUIRESSL", "PGSSLNEGOTIATION",
     "PGSSLCOMPRESSION", "PGSSLCERT", "PGSSLKEY", "PGSSLCERTMODE", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCRLDIR",
     "PGSSLSNI", "PGREQUIREPEER", "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION", "PGGSSENCMODE",
     "PGGSSDELEGATION", "PGKRBSRVNAME", "PGGSSLIB", "PGCONNECT_TIMEOUT", "PGCLIENTENCODING", "PGTARGETSESSIONATTRS",
     "PGLOADBALANCEHOSTS", "PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION", "PGDATESTYLE", "PGTZ", "PGGEQO",
     "PGSYSCONFDIR", "PGLOCALEDIR", "PGDATA"]
)  # fmt: skip
ignored: list[str] = []  # Names of the variables that were removed, sorted; `doctor` shows them.


class LogStream:
    """stderr as it is when a line is written, because a progress bar replaces it while the bar is on the screen.

    `lost`: lines that could not be written. `closed`: there was no stderr when the process began.
    """

    lost, closed = 0, False

    def write(self, text: str) -> int:
        """Write a line; one that cannot be written is counted."""
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
            self.lost += self.closed
        except (OSError, ValueError):  # A full disk, a reader that is gone.
            self.lost += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: each line is handed over when it is written."""


STDERR = LogStream()


def open_standard_streams() -> None:
    """Make sure that descriptors 0 to 2 are open: a socket with number 2 would receive what is meant for stderr."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # It takes the lowest free number: this one.
    STDERR.closed = sys.stderr is None
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - for good


def replace_what_cannot_be_encoded() -> None:
    """Make characters that a stream's encoding lacks come out as `?` instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def discard_unwritable() -> None:
    """Send nowhere what cannot be written: the interpreter would fail on it while it ends, with exit code 120."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                os.close(null)


def write_error(line: str) -> None:
    """Write the last line of a command to stderr, if that can be written."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def colored() -> bool:
    """Return whether log lines are to be colored: on a terminal that can, unless NO_COLOR is set (no-color.org)."""
    try:
        terminal = sys.stderr.isatty()
    except ValueError:
        return False
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def remove_pg_variables(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove libpq's variables, and return their names, sorted. Other variables that begin with PG stay."""
    found = sorted(name for name in environment if name in _LIBPQ)
    for name in found:
        del environment[name]
    if environment is os.environ:
        ignored[:] = found
    return found
