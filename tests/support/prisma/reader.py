"""The real Prisma client on schema.prisma as it is committed: installed, generated, asked through read.mjs.

Nothing is fetched but the locked npm packages: the client needs no engine, and the command line's is never run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE

HERE = Path(__file__).parent
SCHEMA = HERE.parents[2] / "config" / "schema.prisma"
# /bin/true stands for the engine that the command line would download for what is not asked of it here.
_ENVIRONMENT = {"PRISMA_SCHEMA_ENGINE_BINARY": shutil.which("true") or "", "CHECKPOINT_DISABLE": "1", "NO_COLOR": "1"}


def install() -> None:
    """The packages of package.json in node_modules/, unless they are there."""
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    found = {name: HERE / "node_modules" / name / "package.json" for name in wanted}
    if all(path.is_file() and json.loads(path.read_text())["version"] == wanted[name] for name, path in found.items()):
        return
    _run(["npm", "install", "--ignore-scripts", "--silent", "--no-audit", "--no-fund", "--no-save"], HERE)


def prisma(folder: Path, *arguments: str) -> str:
    """A command of Prisma's command line on `folder`/schema.prisma; what it printed."""
    return _run([str(HERE / "node_modules/.bin/prisma"), *arguments, "--schema", "schema.prisma"], folder)


def generate(folder: Path) -> None:
    """Makes the client in node_modules/, from a copy of the schema in `folder`, which is empty or was made by this."""
    install()
    shutil.copy(SCHEMA, folder / "schema.prisma")
    # Prisma looks for the client from the schema's folder upwards.
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(HERE / "node_modules")
    prisma(folder, "generate")


def ask(url: str, questions: Sequence[Sequence[Any]]) -> list[Any]:
    """The answers to [model, method, arguments]; numbers in exact form as read.mjs says."""
    answers: list[Any] = json.loads(_run(["node", "read.mjs"], HERE, json.dumps(questions), DATABASE_URL=url))
    return answers


def plain(value: Any) -> Any:
    """An answer with BigInts, Decimals, DateTimes, Ints and Floats as texts, as PostgreSQL writes them."""
    match value:
        case {"bigint": text} | {"decimal": text} | {"date": text}:
            return text
        case bool() | None:
            return value
        case int() | float():
            return str(value)
        case list():
            return [plain(item) for item in value]
        case dict():
            return {name: plain(item) for name, item in value.items()}
    return value


def _run(command: list[str], folder: Path, given: str = "", **env: str) -> str:
    done = subprocess.run(
        command, cwd=folder, input=given, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env=os.environ | _ENVIRONMENT | env,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout + done.stderr if command[0] != "node" else done.stdout
