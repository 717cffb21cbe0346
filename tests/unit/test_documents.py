"""The documents: links lead somewhere, what they name exists, what they must name they do, and what is generated is
up to date."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from docs.generate import differing
from tests.support import surface

ROOT = Path(__file__).parents[2]
WITH_PAGES = [".", *(f"{folder}/**" for folder in ("docs", "migrations", "benchmarks"))]
PAGES = sorted(page for folder in WITH_PAGES for page in ROOT.glob(f"{folder}/*.md") if "_build" not in page.parts)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def text_of(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Anchors of the headings, as forges and the site's builder make them; a second one of a name ends with -1."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text_of(page), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip()
        slug = stem = re.sub(r"[^\w -]", "", plain.lower()).replace(" ", "-")
        number = 0
        while slug in found:
            number += 1
            slug = f"{stem}-{number}"
        found.add(slug)
    return frozenset(found)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of each relative link."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def commands() -> Iterator[tuple[str, click.Command]]:
    """Each command and subcommand, by what one types."""
    return ((name, command) for name, command, _ in surface.commands() if " " in name)


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert not [line for line in lines if len(line) > 120]


@each_page
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    broken = [f"{path.name}#{anchor}" for path, anchor in links(page)
              if not path.exists() or (anchor and anchor not in anchors(path))]  # fmt: skip
    assert not broken


@each_page
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`((?:\.ci|abis|benchmarks|config|deploy|docs|indexer|migrations|tests)/[\w./-]*)`", text)
    assert page.name == "CHANGELOG.md" or not [
        name for name in named if not (ROOT / name).exists() and "_build" not in name
    ]
    assert set(re.findall(r"`(test_\w+)`", text)) <= names_of_tests()


@cache
def names_of_tests() -> frozenset[str]:
    """Names of all tests, and of the files they are in."""
    files = [*(ROOT / "tests").rglob("test_*.py")]
    return frozenset(name for file in files for name in [file.stem, *re.findall(r"def (test_\w+)", file.read_text())])


def test_the_readme_names_every_command_and_the_reference_every_subcommand() -> None:
    readme, reference = (ROOT / "README.md").read_text(), (ROOT / "docs/reference/cli.md").read_text()
    assert not [name for name, _ in commands() if name.count(" ") == 1 and f"`{name}`" not in readme]
    assert not [name for name, _ in commands() if f"# {name}\n" not in reference]


def test_every_command_has_an_example() -> None:
    assert not [name for name, command in commands() if name not in (command.epilog or "")]


def test_every_variable_that_the_program_reads_is_documented() -> None:
    source = "".join(file.read_text() for file in (ROOT / "indexer").rglob("*.py"))
    named = re.findall(r"\b(?:REYA_INDEXER_[A-Z_]+[A-Z]|DATABASE_URL)\b", source)
    read = {name.removesuffix("_FILE") for name in named}
    documented = (ROOT / "docs/reference/environment.md").read_text()
    assert len(read) > 4 and not [name for name in read if name not in documented]


def test_what_is_generated_is_up_to_date() -> None:
    assert not (found := differing()), f"run make generate: these differ: {', '.join(found)}"
