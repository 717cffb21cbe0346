"""Logging: structlog to stderr, as console text or JSON. stdout is reserved for the answers of commands."""

from __future__ import annotations

import sys
from typing import Literal

import structlog

LogFormat = Literal["console", "json"]


class _Stderr:
    """stderr as it is when a line is written: a progress bar replaces it while the bar is on the screen."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(log_format: LogFormat, *, debug: bool = False, quiet: bool = False) -> None:
    """Set up structlog for this process. `quiet`: warnings and errors only."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        tail: list[structlog.types.Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    else:
        tail = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]
    level = "debug" if debug else "warning" if quiet else "info"
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=_Stderr()),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
