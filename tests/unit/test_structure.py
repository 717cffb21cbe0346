"""The shape of the program: sizes of modules, faces of packages, homes of errors, names, docstrings, rules cited.

Import directions are held by import-linter (`make lint`). A list of exceptions here only shrinks: an entry that is no
longer needed fails, too.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The number of modules grows with what the program does, not with cuts of what is there.
MAX_MODULES, MAX_LINES, MIN_LINES, MAX_SMALL = 330, 350, 40, 15
MAX_FUNCTION_LINES, MAX_PARAMETERS = 40, 8

# A command and the module that does its work may share a name; nothing else does.
SHARED_NAMES = {"estimate", "enrich", "migrate", "status", "roles", "incidents", "reproject", "config"}

# Words of ours for which the field has its own.
HOME_MADE = frozenset(
    [
        "told",
        "said",
        "gone",
        "come",
        "beside",
        "ours",
        "theirs",
        "hands",
        "crew",
        "tally",
        "keeper",
        "standing",
        "front",
        "swap",
        "against",
        "alone",
        "upkeep",
        "spread",
        "sentinel",
        "trouble",
        "facts",
        "served",
    ]
)

# Rooms to come: each reads what the core wrote, and the core must work without any of them.
DOWNSTREAM = ("feed", "streams", "prices", "read", "api", "mcp", "warehouse", "features")


@cache
def modules() -> dict[str, ast.Module]:
    """Path below indexer/ -> syntax tree."""
    package = ROOT / "indexer"
    return {str(p.relative_to(package)): ast.parse(p.read_text()) for p in sorted(package.rglob("*.py"))}


def lines_of(name: str) -> int:
    return len((ROOT / "indexer" / name).read_text().splitlines())


def faces() -> list[str]:
    return [name for name in modules() if name.endswith("__init__.py")]


def definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def test_no_module_is_long_and_few_are_small() -> None:
    assert len(modules()) <= MAX_MODULES
    assert {name: n for name in modules() if (n := lines_of(name)) > MAX_LINES} == {}
    small = [name for name in modules() if name not in faces() and lines_of(name) < MIN_LINES]
    assert len(small) <= MAX_SMALL, small


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """<module>:<name> -> every function, methods and inner functions included."""
    for name, tree in modules().items():
        for node in definitions(tree):
            if not isinstance(node, ast.ClassDef):
                yield f"{name}:{node.name}", node


def test_no_function_is_long() -> None:
    lengths: Counter[str] = Counter()
    for where, node in functions():
        lengths[where] = max(lengths[where], (node.end_lineno or 0) - node.lineno + 1)
    assert {where: n for where, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}


def test_no_function_has_many_parameters() -> None:
    # A command's parameters are its flags.
    many = {where: parameters(node) for where, node in functions() if parameters(node) > MAX_PARAMETERS}
    assert {where: n for where, n in many.items() if not where.startswith("cli/")} == {}


def test_every_package_says_what_it_is_and_does_nothing() -> None:
    for name in faces():
        body = modules()[name].body
        assert ast.get_docstring(modules()[name]), f"{name}: no docstring"
        rest = [n for n in body[1:] if not isinstance(n, ast.ImportFrom | ast.Assign)]
        assert not rest, f"{name}: logic in a package's face"


def test_all_errors_live_in_one_module_and_are_named_so() -> None:
    names: dict[str, str] = {}
    for name, tree in modules().items():
        for node in definitions(tree):
            bases = {ast.unparse(b).rpartition(".")[2] for b in node.bases} if isinstance(node, ast.ClassDef) else set()
            if any(base == "Exception" or base.endswith(("Error", "Exception")) for base in bases):
                names[node.name] = name
    assert {name for name, home in names.items() if home != "errors.py"} == set()
    assert {name for name in names if not name.endswith("Error")} == set()


def test_no_two_modules_and_no_two_classes_share_a_name() -> None:
    stems = Counter(Path(n).stem for n in modules() if n not in faces())
    assert {stem for stem, n in stems.items() if n > 1} <= SHARED_NAMES
    classes = Counter(n.name for tree in modules().values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef))
    assert {name for name, n in classes.items() if n > 1} == set()


# Functions that change public rows in the caller's transaction.
ROW_CHANGES = {
    "write_rows", "delete_state", "upsert", "restore_state", "remove_rows_above", "remove_blocks", "reset_projections",
    "replay",
}  # fmt: skip


def names_in(node: ast.AST) -> set[str]:
    """Names and attributes that a piece of code mentions."""
    return {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(node)}


# Methods that log a change: all of them, and each after the last row that it changes.
LOGGING = {"writer": {"_write"}, "rewriter": {"_take_rows_back", "apply_heal", "commit_replay", "_reset"}}


def test_every_change_of_public_rows_ends_in_one_place() -> None:
    """`Step.log_change` adds the row of the commit log; what consumers are to learn of a change is added there."""
    append = {("commit_log", "append"), ("commit_log", "append_captured")}
    appending = [name for name, tree in modules().items() if attributes(tree) & append]
    assert appending == ["projector/step.py"]
    changing = {name for name, tree in modules().items() if names_in(tree) & ROW_CHANGES}
    assert changing == {f"projector/{m}.py" for m in ("replay", "rewriter", "rollback", "rows", "writer")}
    for module, logging in LOGGING.items():
        methods = {
            n.name: called_in(n) for n in definitions(modules()[f"projector/{module}.py"])
            if not isinstance(n, ast.ClassDef)
        }  # fmt: skip
        assert {name for name, called in methods.items() if "log_change" in called} == logging
        for name in logging:
            changes = [i for i, called in enumerate(methods[name]) if called in ROW_CHANGES]
            assert not changes or max(changes) < methods[name].index("log_change"), f"{module}: {name}"


def called_in(node: ast.AST) -> list[str]:
    """What a piece of code calls, in the order of its text."""
    calls = sorted((n for n in ast.walk(node) if isinstance(n, ast.Call)), key=lambda n: (n.lineno, n.col_offset))
    return [getattr(n.func, "id", getattr(n.func, "attr", "")) for n in calls]


def attributes(tree: ast.AST) -> set[tuple[str, str]]:
    """(name, attribute) of every `name.attribute`."""
    return {
        (n.value.id, n.attr) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        for key in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, key, None)
            # A keyword of a call may be a field of a log line, which dashboards search for.
            if isinstance(value, str) and not (key == "arg" and isinstance(node, ast.keyword)):
                yield value, getattr(node, "lineno", 0)


def test_no_identifier_is_a_word_of_ours() -> None:
    found = [
        f"indexer/{name}:{line} {word}"
        for name, tree in modules().items()
        for word, line in identifiers(tree)
        if word.strip("_") in HOME_MADE
    ]
    assert not found


def test_the_core_imports_no_room_that_follows_the_tables() -> None:
    for name, tree in modules().items():
        if name.partition("/")[0] in (*DOWNSTREAM, "cli"):
            continue
        for node in ast.walk(tree):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [module, *(f"{module}.{a.name}" for a in getattr(node, "names", ()) if hasattr(a, "name"))]
            assert not [n for n in names if re.match(rf"indexer\.({'|'.join(DOWNSTREAM)})\b", n)], f"{name}: {names}"


def rules() -> set[str]:
    """Headings of the page of rules, as the code cites them."""
    page = (ROOT / "docs/explanation/rules.md").read_text()
    return {heading.strip().lower() for heading in re.findall(r"^## (.+)$", page, re.M)}


def test_every_rule_cited_is_a_heading_of_the_page_of_rules() -> None:
    known, cited = rules(), set()
    for path in [*(ROOT / "indexer").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text())
        assert not re.search(r"\brule \d", text), f"{path}: a rule is cited by its name"
        cited |= {rule for rule in known if f"({rule}" in text.lower() or f"{rule})" in text.lower()}
    assert len(known) == 15
    assert len(cited) >= 10, "the code no longer cites the rules that it keeps"


def test_the_glossary_spells_types_as_the_code_does() -> None:
    classes = {n.name for tree in modules().values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    page = (ROOT / "docs/glossary.md").read_text()
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", page))
    assert named and not named - classes


@pytest.mark.parametrize("page", ["docs/explanation/architecture.md", "docs/explanation/data-flow.md"])
def test_types_that_a_page_about_the_code_names_exist(page: str) -> None:
    known = {n.name for tree in modules().values() for n in definitions(tree)}
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", (ROOT / page).read_text()))
    assert not named - known


def public(name: str, tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Public functions and classes of a module, and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{name}:{node.name}", node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith("_"):
                    yield f"{name}:{node.name}.{inner.name}", inner


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([a for a in arguments if a.arg not in ("self", "cls")])


def is_command(node: ast.AST) -> bool:
    """Its docstring is a help text, and its parameters are flags that have helps of their own."""
    return any("command(" in ast.unparse(d) or "group(" in ast.unparse(d) for d in getattr(node, "decorator_list", ()))


def test_docstrings_stand_alone() -> None:
    wrong = []
    for name, tree in modules().items():
        for where, node in public(name, tree):
            first = (ast.get_docstring(node) or "").split("\n")[0]
            if first.startswith(("The same", "Of ")):
                wrong.append(f"{where}: {first[:60]}")
    assert not wrong


def test_functions_of_many_parameters_document_each() -> None:
    lacking = [
        where
        for name, tree in modules().items()
        for where, node in public(name, tree)
        if not isinstance(node, ast.ClassDef) and parameters(node) > 3 and not is_command(node)
        and "Args:" not in (ast.get_docstring(node) or "")
    ]  # fmt: skip
    assert sorted(lacking) == sorted(WITHOUT_ARGS)


def test_public_functions_have_a_docstring() -> None:
    lacking = {
        name: n
        for name, tree in modules().items()
        if (n := sum(not ast.get_docstring(node) for _, node in public(name, tree) if not is_property(node)))
    }
    assert sum(lacking.values()) <= MAX_UNDOCUMENTED, lacking


def is_property(node: ast.AST) -> bool:
    return any("property" in ast.unparse(d) for d in getattr(node, "decorator_list", ()))


# What is named like its neighbors and is explained there: `keys` and `apply` of the projections, say. It only shrinks.
MAX_UNDOCUMENTED = 60
WITHOUT_ARGS: set[str] = set()
