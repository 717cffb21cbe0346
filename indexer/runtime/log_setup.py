"""Logging: structlog to stderr, as console text or JSON. stdout is reserved for the answers of commands."""

from __future__ import annotations

from typing import Literal

import structlog

from indexer.runtime import shell

LogFormat = Literal["console", "json"]


def configure(log_format: LogFormat, *, debug: bool = False, quiet: bool = False) -> None:
    """Set up structlog for this process. `quiet`: warnings and errors only."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if log_format == "json" else "%Y-%m-%d %H:%M:%S", utc=True),
    ]
    if log_format == "json":
        tail: list[structlog.types.Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    else:
        tail = [structlog.dev.ConsoleRenderer(colors=shell.colored(), pad_event_to=0, sort_keys=False)]
    level = "debug" if debug else "warning" if quiet else "info"
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=shell.STDERR),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
