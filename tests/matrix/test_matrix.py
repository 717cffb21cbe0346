"""Every leaf command under every cause outside of the program: exit code, one line, no traceback, the rows as before.

A cell that cannot apply has a reason: the command does not use what the cause concerns, or the one in `others`.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.matrix.causes import ANY, CAUSES, Cause, Place, Setting
from tests.matrix.commands import COMMANDS, DATABASE, EMBEDDED, ENDPOINT, Command, leaf_commands
from tests.support.daemon import PROGRAM, environment
from tests.support.waiting import PATIENCE
from tests.system.test_refusals import fingerprint

MUST_FIX, INTERRUPTED, WRONG_FLAGS = 36, 130, 2
# What a command that succeeds, or is refused for good, leaves: who worked, and that a person should look.
TRACES = {
    "indexer.lease", "indexer.incident", "indexer.endpoint_score", "indexer.enrichment_run", "indexer.attestation",
    "indexer.commit_log", "indexer.served",
}  # fmt: skip


def expected(cause: Cause, name: str) -> int | str:
    """The exit code of a cell; or why it cannot apply."""
    command = COMMANDS[name]
    if cause.needs != ANY and cause.needs not in command.needs:
        return f"uses no {cause.needs}"
    if name in cause.others:
        return cause.others[name]
    if name == "doctor" and cause.needs in (DATABASE, ENDPOINT) and cause.code != 10:
        return MUST_FIX  # It reports the cause as a finding.
    return cause.code


def started(command: Command, setting: Setting, place: Place) -> subprocess.Popen[str]:
    needs_none = EMBEDDED in command.needs or "DATABASE_URL_FILE" in setting.env
    env = {"DATABASE_URL": "" if needs_none else place.good_url, "REYA_RPC_URL": place.node_url, **setting.env}
    line, separator, rest = command.line.partition(" -- ")
    words = f"{shlex.join(PROGRAM)} {line} {shlex.join(setting.flags)} {separator and '-- '}{rest}"
    return subprocess.Popen(
        ["bash", "-c", setting.shell.replace("{}", words)], env=environment(env), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def problem(cause: Cause, name: str, setting: Setting, place: Place) -> str:
    """What is wrong with a cell; empty if nothing is."""
    command, code = COMMANDS[name], expected(cause, name)
    if isinstance(code, str):
        return ""
    process = started(command, setting, place)
    if cause.waits and command.waits:
        return _problem_of_a_wait(process, cause, name)
    _, err = process.communicate(timeout=PATIENCE)
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    told = f"{name}: exit code {process.returncode}, {err!r}"
    if process.returncode != code or "Traceback" in err:
        return f"{told}; expected {code}"
    if code in (0, MUST_FIX, 141):
        return f"{told}: nothing was to be said" if lines else ""
    if code == WRONG_FLAGS:
        lines = lines[-1:]  # click says how the command is used before what is wrong.
    if len(lines) != 1 or not all(any(word in lines[0] for word in words.split("|")) for words in cause.words):
        return f"{told}; expected one line with {cause.words}"
    return ""


def _problem_of_a_wait(process: subprocess.Popen[str], cause: Cause, name: str) -> str:
    """It says once what it waits for, and ends at a signal."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if '"event": "waiting"' in line:
            break
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=PATIENCE)
    if cause.waits not in said or "Traceback" in said + rest or process.returncode not in (0, INTERRUPTED):
        return f"{name}: exit code {process.returncode}, {said + rest!r}; expected a wait for {cause.waits!r}"
    return ""


@pytest.mark.parametrize("cause", CAUSES, ids=[cause.name.replace(" ", "-") for cause in CAUSES])
def test_every_command_ends_as_documented(cause: Cause, place: Place) -> None:
    with cause.made(place) as setting:
        before = rows(place)
        with ThreadPoolExecutor(2) as threads:
            found = threads.map(lambda name: problem(cause, name, setting, place), COMMANDS)
            problems = [text for text in found if text]
        assert not problems, "\n".join(problems)
        assert rows(place) == before
    place.drop_copies()


def rows(place: Place) -> list[tuple[object, ...]]:
    """Rows of every table but the traces, in all databases of the place."""
    counted = [asyncio.run(fingerprint(url)) for url in place.databases()]
    return [row for rows in counted for row in rows if row[0] not in TRACES]


def test_every_command_has_its_cells_and_every_exception_a_reason() -> None:
    assert set(leaf_commands()) == set(COMMANDS)
    assert len(CAUSES) >= 25
    for name in COMMANDS:
        assert sum(isinstance(expected(cause, name), int) for cause in CAUSES) >= 1, name
    for cause in CAUSES:
        assert set(cause.others) <= set(COMMANDS), cause.name
        assert all(reason for reason in cause.others.values() if isinstance(reason, str)), cause.name
        assert sum(isinstance(expected(cause, name), int) for name in COMMANDS) >= 2, cause.name
