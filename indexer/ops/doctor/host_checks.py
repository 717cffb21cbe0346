"""Checks of this machine for `doctor`: the environment, limits of the process, room for the log, and the supervisor."""

from __future__ import annotations

import os
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from indexer.errors import ConfigError
from indexer.ops.doctor.findings import FREE_SHARE, DoctorFinding, DoctorFindings
from indexer.rpc.pool import display_names
from indexer.rpc.proxy import proxy_of
from indexer.runtime import shell
from indexer.runtime.signals import END_TIMEOUT_S

DESCRIPTORS = 256  # Files and sockets that a catch-up with many endpoints and workers may have open.
UNIT = "reya-indexer.service"
_UNIT_PROPERTIES = (
    "LoadState", "Restart", "RestartUSec", "StartLimitIntervalUSec", "StartLimitBurst", "TimeoutStopUSec"
)  # fmt: skip
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800, "month": 2_629_800,
            "y": 31_557_600}  # fmt: skip


def examine_host(urls: Sequence[str]) -> list[DoctorFinding]:
    """Return the findings about this machine. `urls`: the endpoints, which proxies may be in front of."""
    found = DoctorFindings("this machine")
    if shell.ignored:
        detail = f"{', '.join(shell.ignored)}: ignored, because the shell does not decide where this program works"
        found.note("PG variables", detail, "Use DATABASE_URL instead")
    _check_proxies(found, urls)
    _check_limits(found)
    _check_log(found)
    properties = _unit_properties()
    if properties.get("LoadState") == "loaded":
        check_unit(found, properties)
    return found.items


def _check_proxies(found: DoctorFindings, urls: Sequence[str]) -> None:
    through: dict[str, list[str]] = {}
    for url, name in zip(urls, display_names(urls), strict=True):
        try:
            proxy = proxy_of(url)
        except ConfigError as error:
            found.fix("proxy", error.message, error.remedy)
            return
        if proxy.url:
            through.setdefault(proxy.url, []).append(name)
    for proxy_url, names in through.items():
        found.note("proxy", f"{', '.join(names)} by {proxy_url}", "Add the host to NO_PROXY to ask it directly")


def _check_limits(found: DoctorFindings) -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= files < DESCRIPTORS:
        found.note(
            "file descriptors", f"{files} for this shell", f"ulimit -n {DESCRIPTORS}, or LimitNOFILE of the unit"
        )
    else:
        found.good("file descriptors", f"{files if files >= 0 else 'any number'} for this shell")
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size != resource.RLIM_INFINITY:
        found.note("file size", f"limited to {size / 2**20:,.0f} MiB for this shell", "ulimit -f unlimited")


def _check_log(found: DoctorFindings) -> None:
    """Look at the file system of a log that stderr is sent to."""
    try:
        if not stat.S_ISREG(os.fstat(2).st_mode):
            return
        room = os.fstatvfs(2)
    except OSError:
        return
    if room.f_bavail < FREE_SHARE * room.f_blocks:
        free = room.f_bavail * room.f_frsize / 2**30
        found.fix(
            "log", f"{free:.1f} GiB are free where stderr goes", "Make room, or rotate: lines are lost when it is full"
        )


def _unit_properties() -> dict[str, str]:
    """Return what systemd knows of our unit; nothing where there is no systemd."""
    if not Path("/run/systemd/system").is_dir() or (systemctl := shutil.which("systemctl")) is None:
        return {}
    command = [systemctl, "show", UNIT, f"--property={','.join(_UNIT_PROPERTIES)}"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)


def check_unit(found: DoctorFindings, properties: Mapping[str, str]) -> None:
    """Compare the limits of a systemd unit with how long this program waits. Pure.

    A supervisor that gives up before the database is back leaves the indexer down for good; one that kills too early
    turns every stop into a crash.
    """
    before = len(found.items)
    interval, pause = (time_span(properties.get(f"{name}USec", "0")) for name in ("StartLimitInterval", "Restart"))
    burst = int(properties.get("StartLimitBurst", "0"))
    if properties.get("Restart", "no") == "no":
        found.fix("systemd", f"{UNIT} is not restarted", "Restart=always")
    # Where nothing listens, a start ends at once, so that the pauses alone fill the interval.
    elif interval and burst and burst * pause < interval:
        found.fix(
            "systemd", f"gives up for good after {burst} starts: {burst * pause:.0f} s without a database",
            "StartLimitIntervalSec=0: exit codes that no restart changes are in RestartPreventExitStatus",
        )  # fmt: skip
    if time_span(properties.get("TimeoutStopUSec", "90s")) <= END_TIMEOUT_S:
        found.fix("systemd", f"kills {UNIT} before it has ended", "TimeoutStopSec=30")
    if len(found.items) == before:
        found.good("systemd", f"{UNIT} is restarted for as long as it takes, and given the time to end")


def time_span(text: str) -> float:
    """Return a time span as systemd prints it, such as "1min 30s", in seconds; infinity for "infinity"."""
    if text == "infinity":
        return float("inf")
    return sum(float(number) * _SECONDS[unit or "s"] for number, unit in re.findall(r"([\d.]+)\s*([a-z]*)", text))
