"""A skipped test proves nothing: a run with a skip that is not listed here fails."""

from __future__ import annotations

from typing import Any

import pytest

# Node id -> why it may be skipped. Nothing is.
ALLOWED: dict[str, str] = {}


class Skips:
    """Counts skips (xfail is one too), of modules as of tests, and fails the run."""

    def __init__(self, allowed: dict[str, str]) -> None:
        self.allowed = allowed
        self.unlisted: list[str] = []

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and report.nodeid not in self.allowed:
            told: Any = report.longrepr
            self.unlisted.append(f"{report.nodeid}: {told[2] if isinstance(told, tuple) else told}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Workers of xdist report to the process that started them.
        if self.unlisted and not hasattr(session.config, "workerinput"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in self.unlisted:
            terminalreporter.write_line(f"SKIPPED and not on the list in tests/support/skips.py: {line}", red=True)
