"""What `doctor` says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "note", "fix"]


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """`subject`: an endpoint or the database; `remedy` is empty where nothing is to be done."""

    subject: str
    check: str
    level: Level
    said: str
    remedy: str = ""


class DoctorFindings:
    """Of one subject, in the order of the looks."""

    def __init__(self, subject: str) -> None:
        self.subject, self.found = subject, list[DoctorFinding]()

    def good(self, check: str, said: str) -> None:
        self.found.append(DoctorFinding(self.subject, check, "good", said))

    def note(self, check: str, said: str, remedy: str = "") -> None:
        self.found.append(DoctorFinding(self.subject, check, "note", said, remedy))

    def fix(self, check: str, said: str, remedy: str) -> None:
        self.found.append(DoctorFinding(self.subject, check, "fix", said, remedy))
