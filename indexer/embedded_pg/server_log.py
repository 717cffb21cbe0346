"""The server's log output since a given moment, for error messages and to tell a recovery from a hang."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

_TAIL = 8192  # bytes


class ServerLog:
    """Reads what is logged after its creation, so that an earlier start's failure is not reported for this one."""

    def __init__(self, first: Path, folder: Path) -> None:
        """Remember where the logs end now.

        `first`: file with the output before the server opens its log in `folder`; every start truncates it.
        """
        self._first, self._folder = first, folder
        self._offsets = {path: path.stat().st_size for path in self._files() if path != first}

    def text(self) -> str:
        """Return the newest lines of every log, oldest log first."""
        text = ""
        for path in self._files():
            with contextlib.suppress(OSError), path.open("rb") as handle:
                size, start = path.stat().st_size, self._offsets.get(path, 0)
                if size < start:  # The log was rotated and starts again.
                    start = 0
                handle.seek(max(start, size - _TAIL))
                text += handle.read().decode(errors="replace")
        return text

    def reason(self) -> str:
        """Return the line that says most about a failure: the last FATAL or PANIC line, else the last line."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return (self._fatal(lines) or lines or ["it said nothing"])[-1][:300]

    def complete(self, limit: float = 2.0) -> None:
        """Wait for the last lines of a server that has ended, at most `limit` (s).

        The server's logger is a separate process, which ends later and may still be writing.
        """
        deadline = time.monotonic() + limit
        while not self._fatal(self.text().splitlines()) and time.monotonic() < deadline:
            time.sleep(0.02)

    @staticmethod
    def _fatal(lines: list[str]) -> list[str]:
        return [line for line in lines if "FATAL:" in line or "PANIC:" in line]

    def _files(self) -> list[Path]:
        with contextlib.suppress(OSError):
            logs = sorted(self._folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
            return [path for path in (self._first, *logs) if path.is_file()]
        return []
