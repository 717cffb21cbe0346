"""What a benchmark found: figures with their limits, as lines of a table and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` against `limit`: at least it, or at most it when `most`. Without a limit it is only told."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    most: bool = False
    note: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        if self.limit is None:
            return True
        return self.value <= self.limit if self.most else self.value >= self.limit

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}

    def cells(self) -> tuple[str, ...]:
        mark = "" if self.limit is None else "OK" if self.ok else "MISSED"
        limit = "" if self.limit is None else f"{'<=' if self.most else '>='} {self.limit:g}{self.unit}"
        return mark, self.name, f"{self.value:.3g}{self.unit}", limit, self.note


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need; numbers to the right."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if cell[:1].isdigit() or cell[:1] == "-" else cell.ljust(width)
            for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def report(figures: Iterable[Figure]) -> str:
    return table(("", "figure", "measured", "limit", ""), [figure.cells() for figure in figures])


def machine() -> dict[str, Any]:
    """Where it was measured."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
