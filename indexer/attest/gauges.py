"""What the auditor knows of itself, for /metrics and the log. No I/O."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

OFF, STARTING = "off", "starting"


@dataclass(slots=True)
class Gauges:
    """`up_to` and `newest` by grade, block numbers, -1 until known. `state`: "attesting", "done", or what it waits for.
    `blocks` attested since the start, by grade; `blamed`: faults by endpoint."""

    state: str = OFF
    up_to: dict[str, int] = field(default_factory=lambda: {"cross-checked": -1, "proven": -1})
    newest: dict[str, int] = field(default_factory=lambda: {"cross-checked": -1, "proven": -1})
    blocks: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    healed: int = 0  # ranges
    unprovable: int = 0  # blocks that kept their grade
    blamed: Counter[str] = field(default_factory=Counter)
