"""A campaign and its parts: how much each plays, from which seed, and in which file it writes what it did."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Totals(NamedTuple):
    """What is played, or was: steps of the engine in this process, kills of the daemon, faults of endpoints and of
    PostgreSQL, and lies about logs that somebody was told."""

    steps: int = 0
    kills: int = 0
    faults: int = 0
    lies: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in self._asdict().items())


SHORT = Totals(10_000, 200, 40, 200)  # in one go
WHOLE = Totals(100_000, 500, 200, 200)  # in parts


class Part(NamedTuple):
    """The `number`th of `of`, from 1."""

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def share(self, totals: Totals) -> Totals:
        """What this part plays; those of all parts add up to the totals."""
        return Totals(*(total * self.number // self.of - total * (self.number - 1) // self.of for total in totals))

    def seed(self, campaign: str) -> str:
        """Its own; the campaign's, where there is one part."""
        return campaign if self.of == 1 else f"{campaign}.{self.number}of{self.of}"

    def file(self, campaign: str) -> str:
        """The name of its report. Numbers have equally many digits, so that names are in order."""
        return f"seed-{campaign}-part-{self.number:0{len(str(self.of))}}-of-{self.of}.json"


def parse(text: str) -> Part:
    """Read K/N. Raises ValueError."""
    number, slash, of = text.partition("/")
    part = Part(int(number), int(of)) if slash and number.isdecimal() and of.isdecimal() else Part(0, 0)
    if not 1 <= part.number <= part.of:
        raise ValueError(f"{text!r} is not K/N with K from 1 to N")
    return part


def destination(out: Path, part: Part, campaign: str) -> Path:
    """The file itself; in a folder (there already, or ending in a slash in what was typed) that of the part."""
    return out / part.file(campaign) if out.is_dir() or not out.suffix else out
