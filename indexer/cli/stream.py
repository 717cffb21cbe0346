"""`reya-indexer stream ...`: slots, and the process that delivers their changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from indexer import config
from indexer.cli.options import chain_option, data_dir_option, json_option, log_format_option, pg_bin_option
from indexer.cli.report import print_report
from indexer.cli.session import Session, SessionOptions, ask_database
from indexer.db.catalog import COLUMNS
from indexer.db.connection import Connection, connect
from indexer.errors import RefusedError
from indexer.exit_codes import ExitCode
from indexer.feed import log_reader
from indexer.feed.commits import Level
from indexer.runtime import log_setup, signals
from indexer.runtime.tasks import run_all
from indexer.store import stream_slots
from indexer.store.lease import holder_name
from indexer.store.stream_slots import StreamSlot
from indexer.streams.sinks import sink_kinds
from indexer.streams.slot_progress import SlotProgress
from indexer.streams.slot_worker import SlotWorker


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
    """Deliver every change of the tables to brokers and followers.

    What a reorg undoes is taken back in the same way.

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


_name_argument = click.argument("name")


@stream_group.command(
    "create",
    epilog="\b\nExamples:\n"
    "  reya-indexer stream create own-reader --level finalized\n"
    "  reya-indexer stream create followers --live",
)
@_name_argument
@chain_option
@click.option("--sink", "kind", type=click.Choice(list(sink_kinds.KINDS)), help="Where the changes are delivered.")
@click.option("--live", is_flag=True, help="Keep changes for followers that confirm nothing.")
@click.option("--level", type=click.Choice([*Level]), default="instant", show_default=True,
              help="How final the rows must be.")  # fmt: skip
@click.option("--tables", callback=_tables, metavar="NAMES", help="Comma-separated tables. Default: all.")
@click.option("--prefix", default="reya", show_default=True, help="What topics, keys or subjects begin with.")
@data_dir_option
@pg_bin_option
@json_option
def create_command(
    name: str, chain: str, kind: str | None, live: bool, level: str, tables: list[str] | None, prefix: str,
    data_dir: Path | None, pg_bin: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Create a slot.

    From now on the changes that its consumer needs are kept. Without --sink, the
    consumer is a program of your own, which reads the change log and confirms by itself.
    """
    log_setup.configure("console", quiet=True)
    if live and kind:
        raise click.UsageError("--live has no consumer that --sink could deliver to; leave one of them out.")
    sink = None if kind is None else {"kind": kind, "prefix": prefix}

    async def create(conn: Connection) -> SlotsReport:
        return await _report(conn, [await stream_slots.create(conn, name, level, tables, sink=sink, live=live)])

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
    "pause", "Stop delivering to a slot. Its changes are kept meanwhile.",
    partial(stream_slots.set_paused, paused=True), "kafka-all",
))  # fmt: skip
stream_group.add_command(_changes_slot(
    "resume", "Go on delivering to a slot that was paused.",
    partial(stream_slots.set_paused, paused=False), "kafka-all",
))  # fmt: skip
stream_group.add_command(_changes_slot(
    "drop", "Drop a slot. What was kept for it alone is removed.", stream_slots.drop, "kafka-all",
))  # fmt: skip
stream_group.add_command(_changes_slot(
    "bootstrap", "Let a slot, also a lost one, begin anew.\n\nIts sink gets a snapshot of the tables.",
    stream_slots.restart, "kafka-all",
))  # fmt: skip


@stream_group.command("run", epilog="\b\nExample:\n  reya-indexer stream run --chain reya")
@click.argument("names", nargs=-1)
@chain_option
@data_dir_option
@pg_bin_option
@log_format_option
def run_command(
    names: tuple[str, ...], chain: str, data_dir: Path | None, pg_bin: Path | None, log_format: log_setup.LogFormat
) -> None:
    """Deliver to the sinks of these slots, or of all, until stopped. One that fails does not stop another."""
    log_setup.configure(log_format)
    options = SessionOptions.from_click(chain, None, data_dir=data_dir, pg_bin=pg_bin)
    try:
        signals.run_stoppable(partial(_run, options, names), ExitCode.DONE)
    except KeyboardInterrupt:
        return


async def _run(options: SessionOptions, names: tuple[str, ...], stop: signals.StopRequest) -> None:
    async with Session(options) as session:
        conn = await session.connect()
        slots = [await stream_slots.get(conn, name) for name in names] or [
            slot for slot in await stream_slots.list_all(conn) if slot.sink is not None
        ]
        if not slots:
            raise RefusedError("there is no slot with a sink", "`reya-indexer stream create NAME --sink ...` makes one")
        url = await session.database_url()
        deployment, holder = options.deployment.name, holder_name("stream")
        for slot in slots:
            sink_kinds.make_sink(slot, deployment)  # A missing library or URL is said now, before anything is claimed.
        await run_all(*[
            SlotWorker(
                partial(connect, url), slot.name, holder, partial(sink_kinds.make_sink, deployment=deployment),
                SlotProgress(slot.name),
            ).run()
            for slot in slots
        ])  # fmt: skip
