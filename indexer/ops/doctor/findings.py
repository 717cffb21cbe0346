"""Findings of `doctor`: one for each check of an endpoint or the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FREE_SHARE = 0.10  # Of a file system that should be free.
Level = Literal["good", "note", "fix"]


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """The result of one check. `subject`: an endpoint or the database; `remedy` is empty if there is nothing to do."""

    subject: str
    check: str
    level: Level
    detail: str
    remedy: str = ""


class DoctorFindings:
    """The findings about one subject, in the order of the checks."""

    def __init__(self, subject: str) -> None:
        self.subject, self.items = subject, list[DoctorFinding]()

    def good(self, check: str, detail: str) -> None:
        """Add a finding that all is well."""
        self.items.append(DoctorFinding(self.subject, check, "good", detail))

    def note(self, check: str, detail: str, remedy: str = "") -> None:
        """Add a finding that is worth knowing but need not be fixed."""
        self.items.append(DoctorFinding(self.subject, check, "note", detail, remedy))

    def fix(self, check: str, detail: str, remedy: str) -> None:
        """Add a finding that must be fixed."""
        self.items.append(DoctorFinding(self.subject, check, "fix", detail, remedy))
