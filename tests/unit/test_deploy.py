"""The files in deploy/: what they start exists, and what they promise in the documents they do."""

from __future__ import annotations

import configparser
import json
import re
import runpy
from pathlib import Path
from typing import Any

import click
import yaml

from indexer.cli.main import cli
from indexer.errors import LeaseLostError, ReorgTooDeepError, SchemaNewerError, SchemaOlderError
from indexer.follow.runner import OPEN_TIMEOUT_S
from indexer.ops.doctor.findings import DoctorFindings
from indexer.ops.doctor.host_checks import check_unit, time_span
from indexer.runtime.signals import END_TIMEOUT_S

DEPLOY = Path(__file__).parents[2] / "deploy"


def parsed(arguments: list[str]) -> dict[str, Any]:
    """A command line as click reads it; a flag that does not exist is a UsageError."""
    context = click.Context(cli, **cli.context_settings)
    command = cli.get_command(context, arguments[0])
    assert command is not None, arguments
    return command.make_context(arguments[0], list(arguments[1:]), parent=context, resilient_parsing=False).params


def test_the_dashboard_is_what_its_program_prints_and_fits_the_grid() -> None:
    stored = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    assert stored == runpy.run_path(str(DEPLOY / "grafana" / "make.py"))["dashboard"]()
    panels = stored["panels"]
    assert len({p["id"] for p in panels}) == len(panels) > 20
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        g = panel["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert g["x"] + g["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    variables = {v["name"] for v in stored["templating"]["list"]}
    for panel in panels:
        if panel["type"] != "row":
            assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}"
            for target in panel["targets"]:
                used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
                assert used <= variables and 'job="$job"' in target["expr"], target["expr"]


def test_the_systemd_unit_starts_the_program_hardened_and_gives_up_where_a_start_changes_nothing() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "reya-indexer.service")
    service = unit["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/bin/reya-indexer") and parsed(arguments)["http_host"] == "127.0.0.1"
    final = set(map(int, service["RestartPreventExitStatus"].split()))
    assert {SchemaNewerError.exit_code, SchemaOlderError.exit_code, ReorgTooDeepError.exit_code} <= final
    assert LeaseLostError.exit_code not in final and 11 not in final and 18 not in final
    for name in ("NoNewPrivileges", "DynamicUser", "ProtectHome", "PrivateTmp", "MemoryDenyWriteExecute"):
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""
    text = (DEPLOY / "systemd" / "reya-indexer.service").read_text()
    assert "DATABASE_URL_FILE=%d/database_url" in text and "DATABASE_URL=" not in text.replace("DATABASE_URL_FILE=", "")


def findings_about(unit: dict[str, str]) -> list[tuple[str, str]]:
    found = DoctorFindings("this machine")
    check_unit(found, {"LoadState": "loaded"} | unit)
    return [(item.level, item.detail) for item in found.items]


def test_no_supervisor_gives_up_or_kills_before_we_do() -> None:
    """The rules of systemd, Kubernetes and Docker, by arithmetic."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "reya-indexer.service")
    service = unit["Service"]
    shown = {  # as `systemctl show` names and spells them
        "Restart": service["Restart"], "RestartUSec": f"{service['RestartSec']}s",
        "StartLimitIntervalUSec": unit["Unit"]["StartLimitIntervalSec"], "StartLimitBurst": "5",
        "TimeoutStopUSec": f"{service['TimeoutStopSec']}s",
    }  # fmt: skip
    assert [level for level, _ in findings_about(shown)] == ["good"]
    limited = shown | {"StartLimitIntervalUSec": "10min", "StartLimitBurst": "10"}
    assert [level for level, said in findings_about(limited) if "gives up for good after 10 starts" in said] == ["fix"]
    assert findings_about(shown | {"StartLimitIntervalUSec": "10min", "StartLimitBurst": "200"})[0][0] == "good"
    assert findings_about(shown | {"TimeoutStopUSec": "4s"})[0][0] == "fix"
    assert findings_about(shown | {"Restart": "no"})[0][0] == "fix"
    assert [time_span(text) for text in ("1min 30s", "0", "infinity", "2h 5min", "500ms", "1month 2d")] == [
        90, 0, float("inf"), 7500, 0.5, 2_629_800 + 2 * 86_400
    ]  # fmt: skip

    deployment, *_ = yaml.safe_load_all((DEPLOY / "kubernetes" / "reya-indexer.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    startup = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
    liveness = container["livenessProbe"]["periodSeconds"] * container["livenessProbe"]["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] > END_TIMEOUT_S and startup > OPEN_TIMEOUT_S and liveness >= 60
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    for name in ("indexer", "standby"):
        ours = compose["services"][name]
        assert ours["restart"] == "unless-stopped" and int(ours["stop_grace_period"].removesuffix("s")) > END_TIMEOUT_S


def test_the_compose_file_keeps_secrets_in_files_and_ports_on_loopback() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    services, secrets = compose["services"], set(compose["secrets"])
    for name, service in services.items():
        assert set(service.get("secrets", ())) <= secrets
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        for variable, value in service.get("environment", {}).items():
            assert variable.endswith("_FILE") or variable in ("POSTGRES_USER", "POSTGRES_DB")
            if variable.endswith("_FILE"):
                assert value.removeprefix("/run/secrets/") in service["secrets"]
        if service["image"] == "reya-indexer":
            assert service["read_only"] and service["cap_drop"] == ["ALL"] and parsed(service["command"])
        if service.get("restart") == "unless-stopped":
            assert service["logging"]["options"]["max-file"], f"{name}: logs grow without end"
        for needed in service.get("depends_on", {}):
            assert needed in services
    assert services["indexer"]["ports"] != services["standby"]["ports"]


def test_the_kubernetes_example_probes_migrates_first_and_has_a_standby() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "reya-indexer.yaml").read_text()))
    kinds = {d["kind"]: d for d in documents}
    assert set(kinds) == {"Deployment", "PodDisruptionBudget", "Service", "NetworkPolicy"}
    deployment = kinds["Deployment"]["spec"]
    assert deployment["replicas"] == 2 and deployment["strategy"]["type"] == "Recreate"
    pod = deployment["template"]["spec"]
    (migrate,), (indexer,) = pod["initContainers"], pod["containers"]
    assert parsed(migrate["args"]) and migrate["args"][0] == "migrate" and migrate["image"] == indexer["image"]
    assert parsed(indexer["args"])["http_host"] == "0.0.0.0"
    (port,) = indexer["ports"]
    probes = {name: indexer[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/live", "liveness": "/live", "readiness": "/ready",
    }  # fmt: skip
    assert {probe["port"] for probe in probes.values()} == {port["name"]} and port["containerPort"] == 9464
    mounts = {mount["name"] for mount in indexer["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsNonRoot"] and indexer["securityContext"]["readOnlyRootFilesystem"]
    labels = deployment["template"]["metadata"]["labels"]
    for document in documents:
        spec = document["spec"]
        selected = spec.get("podSelector", spec.get("selector"))
        assert selected.get("matchLabels", selected) == labels, document["kind"]
