"""Failpoints: named places where a test kills or stops the process, to prove that no step can be caught half done.

`REYA_INDEXER_FAILPOINTS="project.before_commit=kill@3,ingest.committed=pause"`: a process that passes a failpoint for
the third time (first, without a number) sends itself SIGKILL (kill) or SIGSTOP (pause). Without the variable a
failpoint costs one dictionary lookup.
"""

from __future__ import annotations

import os
import signal


def _parse(text: str) -> dict[str, tuple[int, int]]:
    points: dict[str, tuple[int, int]] = {}
    for entry in filter(None, text.split(",")):
        name, _, action = entry.partition("=")
        kind, _, nth = action.partition("@")
        points[name.strip()] = ({"kill": signal.SIGKILL, "pause": signal.SIGSTOP}[kind], int(nth or 1))
    return points


_points = _parse(os.environ.get("REYA_INDEXER_FAILPOINTS", ""))
_passes: dict[str, int] = {}


def hit(name: str) -> None:
    """Mark a point that a test may arm."""
    point = _points.get(name)
    if point:
        _passes[name] = _passes.get(name, 0) + 1
        if _passes[name] == point[1]:
            os.kill(os.getpid(), point[0])
