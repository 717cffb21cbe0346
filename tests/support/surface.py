"""What users hold on to, read from the program itself: flags, TOML keys, metrics, log events, tables, failpoints, exit
codes; and, apart from these, its help and error texts.

    python -m tests.support.surface --record     writes tests/data/surface.json and tests/data/texts.json

The first file changes only with a release that says so in the changelog: dashboards, scripts and SQL depend on it. The
second may change with a better wording, in a commit that does nothing else.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click

from indexer import config
from indexer.cli.main import EXIT_CODES, cli
from indexer.errors import ConfigError
from indexer.ops.metric_catalog import CATALOG
from indexer.schema.tables.metadata import internal, public
from indexer.schema.views.all_views import VIEWS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
LOG_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
TOML_TABLES = ("", "finality", "polling", "ranges", "rpc", "attest", "budget", "contract", "token")


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command with its full name, parents before children."""
    context = click.Context(cli, info_name="reya-indexer", terminal_width=100, **cli.context_settings)
    yield "reya-indexer", cli, context
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield f"reya-indexer {name}", command, inner
        if isinstance(command, click.Group):
            for child in sorted(command.commands):
                below = click.Context(command.commands[child], info_name=child, parent=inner)
                yield f"reya-indexer {name} {child}", command.commands[child], below


def flags() -> dict[str, list[str]]:
    """Command -> its parameters: spellings, type, default and environment variable."""
    described: dict[str, list[str]] = {}
    for name, command, context in commands():
        described[name] = sorted(_parameter(p, context) for p in command.params)
    return described


def _parameter(parameter: click.Parameter, context: click.Context) -> str:
    kind = parameter.type
    choices = "|".join(str(c) for c in kind.choices) if isinstance(kind, click.Choice) else kind.name
    spelling = "/".join([*parameter.opts, *parameter.secondary_opts])
    default = parameter.to_info_dict().get("default")
    shown = "" if default in (None, False, ()) or "Sentinel" in repr(default) else f" = {default}"
    marks = [m for m in ("multiple", "required", "is_flag") if getattr(parameter, m, False)]
    variable = f" env {parameter.envvar}" if parameter.envvar else ""
    return " ".join([spelling, choices, *marks]) + shown + variable


def toml_keys() -> dict[str, list[str]]:
    """Table of a deployment's file -> the keys known there, as the refusal of an unknown one lists them."""
    known = {}
    shipped = (ROOT / "config" / "reya.toml").read_text(encoding="utf-8")
    for table in TOML_TABLES:
        header = f"[[{table}]]" if table in ("contract", "token") else f"[{table}]"
        if not table:
            text = "no_such_key = 1\n" + shipped
        elif re.search(rf"^{re.escape(header)}", shipped, re.MULTILINE):
            text = re.sub(rf"^{re.escape(header)}", f"{header}\nno_such_key = 1", shipped, count=1, flags=re.MULTILINE)
        else:
            text = f"{shipped}\n{header}\nno_such_key = 1\n"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reya.toml"
            path.write_text(text, encoding="utf-8")
            try:
                config.load(str(path))
            except ConfigError as error:
                listed = re.search(r"unknown key\. Known keys: (.*)", str(error))
                assert listed, error
                known[table or "(top)"] = listed[1].split(", ")
    return known


def tables() -> dict[str, list[str]]:
    """Table -> columns in their order; view -> its definition's name only (its columns are read from a database)."""
    described = {
        f"{table.schema or 'public'}.{table.name}": [column.name for column in table.columns]
        for metadata in (public, internal)
        for table in metadata.sorted_tables
    }
    return dict(sorted(described.items()))


@cache
def sources() -> tuple[ast.Module, ...]:
    return tuple(ast.parse(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "indexer").rglob("*.py")))


def log_events() -> list[str]:
    """First arguments of all log calls."""
    return sorted({
        node.args[0].value
        for tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOG_LEVELS
        and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    })  # fmt: skip


def failpoints() -> list[str]:
    """Arguments of all calls of `failpoints.hit`."""
    return sorted({
        str(node.args[0].value)
        for tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hit"
        and isinstance(node.args[0], ast.Constant)
    })  # fmt: skip


def exit_codes() -> list[int]:
    """Codes as `--help` lists them."""
    return sorted({int(code) for code in re.findall(r"(?:^|\s)(\d+) [a-z]", EXIT_CODES)})


def surface() -> dict[str, Any]:
    """Everything that must not change by accident."""
    return {
        "exit_codes": exit_codes(),
        "failpoints": failpoints(),
        "flags": flags(),
        "log_events": log_events(),
        "metrics": sorted(f"{m.exported} {m.kind} {','.join(m.labels)}".rstrip() for m in CATALOG.values()),
        "tables": tables(),
        "toml_keys": toml_keys(),
        "views": sorted(VIEWS),
    }


def help_text(command: click.Command, context: click.Context) -> str:
    """The help as users see it. click keeps the help option of a command's first use, which in a test that calls the
    command by itself has no -h: it is dropped first, so that the order of tests does not show."""
    command._help_option = None
    return command.get_help(context)


def texts() -> dict[str, Any]:
    """What people read: the help of every command, and the templates of error messages and remedies."""
    helps = {name: help_text(command, context).splitlines() for name, command, context in commands()}
    return {"errors": error_texts(), "help": helps}


def error_texts() -> list[str]:
    """String literals in raised errors, "{}" for what is filled in."""
    found = set()
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                found |= {_template(part) for part in _literals(node.exc)}
    return sorted(text for text in found if " " in text)


def _literals(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr) or (isinstance(child, ast.Constant) and isinstance(child.value, str)):
            yield child
        else:
            yield from _literals(child)


def _template(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
    assert isinstance(node, ast.Constant)
    return str(node.value)


FILES = {"surface.json": surface, "texts.json": texts}


def recorded(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return content


def main() -> None:
    if sys.argv[1:] != ["--record"]:
        sys.exit(__doc__)
    for name, read in FILES.items():
        (DATA / name).write_text(json.dumps(read(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
