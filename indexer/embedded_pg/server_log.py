"""What the server said since a moment, for error messages and to tell a recovery from a hang."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

_TAIL = 8192  # bytes


class ServerLog:
    """Reads on from where the logs end now. Older lines would blame a start on an earlier one's failure."""

    def __init__(self, first: Path, folder: Path) -> None:
        """`first`: what the server says before it opens its log in `folder`; every start begins that file anew."""
        self._first, self._folder = first, folder
        self._from = {path: path.stat().st_size for path in self._files() if path != first}

    def text(self) -> str:
        """The newest lines of every log, oldest log first."""
        text = ""
        for path in self._files():
            with contextlib.suppress(OSError), path.open("rb") as handle:
                size, start = path.stat().st_size, self._from.get(path, 0)
                if size < start:  # rotated: begun again
                    start = 0
                handle.seek(max(start, size - _TAIL))
                text += handle.read().decode(errors="replace")
        return text

    def reason(self) -> str:
        """The line that says most about a failure: the last that is fatal or panics, else the last."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return (self._fatal(lines) or lines or ["it said nothing"])[-1][:300]

    def complete(self, limit: float = 2.0) -> None:
        """To be called when the server ended: waits, at most `limit` seconds, for its last words.

        Its logger is a process of its own, which ends and writes after it.
        """
        until = time.monotonic() + limit
        while not self._fatal(self.text().splitlines()) and time.monotonic() < until:
            time.sleep(0.02)

    @staticmethod
    def _fatal(lines: list[str]) -> list[str]:
        return [line for line in lines if "FATAL:" in line or "PANIC:" in line]

    def _files(self) -> list[Path]:
        with contextlib.suppress(OSError):
            logs = sorted(self._folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
            return [path for path in (self._first, *logs) if path.is_file()]
        return []
