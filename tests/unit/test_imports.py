"""The pure cores import nothing that does I/O: they can be read, tested and run without a database or a node."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = [
    "indexer.chain", "indexer.projections", "indexer.ingest.confirm", "indexer.ingest.proof_rules",
    "indexer.attest.evidence", "indexer.attest.header_chain", "indexer.attest.verdict", "indexer.follow.state_machine",
    "indexer.follow.stall_detector", "indexer.runtime.progress", "indexer.rpc.error_classifier",
    "indexer.rpc.error_hints", "indexer.rpc.adaptive_size", "indexer.rpc.rate_limit", "indexer.rpc.receipts",
    "indexer.rpc.wire", "indexer.rpc.answers", "indexer.rpc.health", "indexer.db.copy_format",
    "indexer.chain.log_set", "indexer.projector.impact", "indexer.check.position_math",
    "indexer.check.position_replay", "indexer.check.counterparties",
    "indexer.feed.changes", "indexer.feed.commits", "indexer.feed.marker", "indexer.feed.net",
]  # fmt: skip
# indexer.decode.registry reads the shipped ABI files; the rest of what it does is pure.
FORBIDDEN = (
    "asyncio", "aiohttp", "asyncpg", "sqlalchemy", "socket", "subprocess", "urllib.request", "structlog",
    "web3", "click",
)  # fmt: skip


def files(module: str) -> list[Path]:
    path = ROOT / module.replace(".", "/")
    return sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imports(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    # What only the type checker imports is not imported.
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def reached(path: Path, seen: set[Path]) -> Iterator[tuple[Path, str]]:
    if path in seen:
        return
    seen.add(path)
    for name in imports(path):
        yield path, name
        if name.startswith("indexer"):
            for inner in files(name):
                if inner.exists():
                    yield from reached(inner, seen)


@pytest.mark.parametrize("module", PURE)
def test_a_pure_core_reaches_no_io(module: str) -> None:
    seen: set[Path] = set()
    assert files(module)
    for path in files(module):
        for where, name in reached(path, seen):
            assert not f"{name}.".startswith(tuple(f"{f}." for f in FORBIDDEN)), (
                f"{where.relative_to(ROOT)} imports {name}"
            )
