"""`reya-indexer stream ...`: slots of consumers that follow the tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from indexer import config
from indexer.cli.options import chain_option, data_dir_option, json_option, pg_bin_option
from indexer.cli.report import print_report
from indexer.cli.session import ask_database
from indexer.db.catalog import COLUMNS
from indexer.db.connection import Connection
from indexer.feed import log_reader
from indexer.feed.commits import Level
from indexer.runtime import log_setup
from indexer.store import stream_slots
from indexer.store.stream_slots import StreamSlot


@dataclass(frozen=True, slots=True)
class SlotReport:
    """A slot as commands show it. `lag_commits`: commits of the log after the confirmed one."""

    name: str
    sink: dict[str, Any] | None
    live: bool
    level: str
    tables: list[str] | None
    state: str
    seq: int
    generation: int
    lag_commits: int
    holder: str | None
    confirmed_at: str | None
    note: str | None

    def summary(self) -> str:
        """Return the text for people."""
        sink = "live" if self.live else (self.sink or {}).get("kind", "a reader of its own")
        tables = "all tables" if self.tables is None else ", ".join(self.tables)
        return (
            f"{self.name}: {self.state}, {sink}, {self.level}, {tables}; at commit {self.seq:,} of generation"
            f" {self.generation}, {self.lag_commits:,} behind" + (f"; {self.note}" if self.note else "")
        )


@dataclass(frozen=True, slots=True)
class SlotsReport:
    """Every slot."""

    slots: list[SlotReport]

    def summary(self) -> str:
        """Return the text for people."""
        return "\n".join(slot.summary() for slot in self.slots) or "No slots: `reya-indexer stream create` makes one."


async def _report(conn: Connection, slots: list[StreamSlot]) -> SlotsReport:
    newest = await log_reader.head(conn)
    head = 0 if newest is None else newest.seq
    return SlotsReport([_slot_report(slot, head) for slot in slots])


def _slot_report(slot: StreamSlot, head: int) -> SlotReport:
    def text(moment: datetime | None) -> str | None:
        return None if moment is None else moment.isoformat()

    return SlotReport(
        slot.name, slot.sink, slot.live, slot.level, slot.tables, slot.state, slot.seq, slot.generation,
        max(0, head - slot.seq), slot.holder, text(slot.confirmed_at), slot.note,
    )  # fmt: skip


@click.group("stream", epilog="\b\nExample:\n  reya-indexer stream status --chain reya")
def stream_group() -> None:
    """Keep every change of the tables for consumers that follow them.

    What a reorg undoes is kept in the same way.

    docs/explanation/feed.md says what a consumer may rely on.
    """


def _tables(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[str] | None:
    """Return the names in a comma-separated list; fail with a usage error for a table that no projection writes."""
    names = None if value is None else sorted({name.strip() for name in value.split(",") if name.strip()})
    for name in names or ():
        if name not in COLUMNS:
            raise click.BadParameter(f"{name!r} is no projected table; these are: {', '.join(sorted(COLUMNS))}")
    if names == []:
        raise click.BadParameter("names no table")
    return names


def _slot_name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Return the name; fail with a usage error unless it fits into metric labels, topics and file names."""
    if not _NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r}: write lower-case letters, digits, - and _, at most 63, a letter first")
    return value


_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_name_argument = click.argument("name", callback=_slot_name)


@stream_group.command(
    "create",
    epilog="\b\nExamples:\n"
    "  reya-indexer stream create own-reader --level finalized\n"
    "  reya-indexer stream create followers --live",
)
@_name_argument
@chain_option
@click.option("--live", is_flag=True, help="Keep changes for followers that confirm nothing.")
@click.option("--level", type=click.Choice([level.value for level in Level]), default="instant", show_default=True,
              help="How final the rows must be.")  # fmt: skip
@click.option("--tables", callback=_tables, metavar="NAMES", help="Comma-separated tables. Default: all.")
@data_dir_option
@pg_bin_option
@json_option
def create_command(
    name: str, chain: str, live: bool, level: str, tables: list[str] | None,
    data_dir: Path | None, pg_bin: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Create a slot.

    From now on the changes that its consumer needs are kept. The consumer is a program of yours, which reads the
    change log and confirms by itself.
    """
    log_setup.configure("console", quiet=True)

    async def create(conn: Connection) -> SlotsReport:
        return await _report(conn, [await stream_slots.create(conn, name, level, tables, live=live)])

    print_report(ask_database(config.load(chain), data_dir, pg_bin, create), as_json)


@stream_group.command("status", epilog="\b\nExample:\n  reya-indexer stream status --json")
@chain_option
@data_dir_option
@pg_bin_option
@json_option
def status_command(chain: str, data_dir: Path | None, pg_bin: Path | None, as_json: bool) -> None:
    """Show every slot: state, position, lag."""
    log_setup.configure("console", quiet=True)

    async def status(conn: Connection) -> SlotsReport:
        return await _report(conn, await stream_slots.list_all(conn))

    print_report(ask_database(config.load(chain), data_dir, pg_bin, status), as_json)


def _changes_slot(name: str, help_text: str, act: Any, example: str) -> click.Command:
    """Return a command that changes one slot and shows it."""

    @click.command(name, help=help_text, epilog=f"\b\nExample:\n  reya-indexer stream {name} {example}")
    @_name_argument
    @chain_option
    @data_dir_option
    @pg_bin_option
    @json_option
    def command(name: str, chain: str, data_dir: Path | None, pg_bin: Path | None, as_json: bool) -> None:
        log_setup.configure("console", quiet=True)

        async def change(conn: Connection) -> SlotsReport:
            before = await stream_slots.get(conn, name)
            await act(conn, name)
            left = [slot for slot in await stream_slots.list_all(conn) if slot.name == name]
            return await _report(conn, left or [before._replace(state="dropped")])  # type: ignore[arg-type]

        print_report(ask_database(config.load(chain), data_dir, pg_bin, change), as_json)

    return command


stream_group.add_command(_changes_slot(
    "pause", "Mark a slot as paused. Its changes are kept meanwhile.",
    partial(stream_slots.set_paused, paused=True), "own-reader",
))  # fmt: skip
stream_group.add_command(_changes_slot(
    "resume", "Mark a slot that was paused as active again.",
    partial(stream_slots.set_paused, paused=False), "own-reader",
))  # fmt: skip
stream_group.add_command(_changes_slot(
    "drop", "Drop a slot. What was kept for it alone is removed.", stream_slots.drop, "own-reader",
))  # fmt: skip
stream_group.add_command(_changes_slot(
    "bootstrap", "Let a slot, also a lost one, begin anew.\n\nIts consumer needs a snapshot of the tables first.",
    stream_slots.restart, "own-reader",
))  # fmt: skip
