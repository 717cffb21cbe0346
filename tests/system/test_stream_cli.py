"""`reya-indexer stream`, as a user calls it: the life of a slot, and bad input that is named."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from indexer.schema.migrate import upgrade
from tests.support.daemon import run

Stream = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def stream(fresh_database: Callable[[], str]) -> Iterator[Stream]:
    url = fresh_database()
    upgrade(url)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("stream", *arguments, "--chain", "devnet", env={"DATABASE_URL": url})

    yield call


def slots(stream: Stream) -> dict[str, dict[str, object]]:
    done = stream("status", "--json")
    assert done.returncode == 0, done.stderr
    return {slot["name"]: slot for slot in json.loads(done.stdout)["slots"]}


def test_the_life_of_a_slot(stream: Stream) -> None:
    assert stream("status").stdout == "No slots: `reya-indexer stream create` makes one.\n"
    done = stream("create", "dash", "--level", "finalized", "--tables", "positions, orders")
    assert (done.returncode, done.stdout) == (
        0, "dash: active, a reader of its own, finalized, orders, positions; at commit 0 of generation 0, 0 behind\n"
    )  # fmt: skip
    assert json.loads(stream("create", "followers", "--live", "--json").stdout)["slots"][0]["live"] is True
    assert {name: slot["level"] for name, slot in slots(stream).items()} == {
        "dash": "finalized",
        "followers": "instant",
    }
    for command, state in (("pause", "paused"), ("resume", "active"), ("bootstrap", "active")):
        done = stream(command, "dash")
        assert (done.returncode, slots(stream)["dash"]["state"]) == (0, state), done.stderr
    assert stream("drop", "dash").stdout.startswith("dash: dropped, ")
    assert list(slots(stream)) == ["followers"]


def test_bad_input_is_named_and_changes_nothing(stream: Stream) -> None:
    assert stream("create", "dash").returncode == 0
    for arguments, code, message in (
        (("create", "dash"), 31, "error: there is a slot 'dash' already. Choose another name, or drop that slot"),
        (("create", "x", "--level", "soon"), 2, "'soon' is not one of 'instant', 'safe', 'finalized'"),
        (("create", "x", "--tables", "orders,nope"), 2, "'nope' is no projected table; these are: Asset, "),
        (("create", "x", "--tables", " , "), 2, "names no table"),
        (("create", ""), 2, "write lower-case letters"),
        (("create", "a b"), 2, "write lower-case letters"),
        (("pause", "nix"), 31, "error: there is no slot 'nix'. `reya-indexer stream status` lists them"),
        (("bootstrap", "nix"), 31, "there is no slot 'nix'"),
        (("drop", "nix"), 31, "there is no slot 'nix'"),
    ):
        done = stream(*arguments)
        assert done.returncode == code and message in done.stderr, (arguments, done.stderr)
    assert list(slots(stream)) == ["dash"]
