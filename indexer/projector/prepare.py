"""Renders what a write set collected, ready for the server. No SQL: `rows.py` writes it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from indexer.db.catalog import KEYS
from indexer.projections.events import Event, Key, Row
from indexer.projections.project import project, split_row, tables_of
from indexer.projections.write_set import Incident, WriteSet
from indexer.runtime.exact_json import to_json

MIN_THREADED_EVENTS = 500  # Smaller steps are projected in the event loop's own thread.


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Everything a step writes, ready for the server. Nothing in it refers to the write set, which may be used further.

    `copies`: COPY text by table, of appended rows and of state rows that had none before. `upserts`: COPY text by
    table, of the other changed state rows. `images`: before-images as JSON. Each comes with its number of rows.
    """

    copies: dict[str, tuple[int, bytes]]
    upserts: dict[str, tuple[int, str]]
    images: tuple[int, str]
    incidents: list[Row]


def prepare(write_set: WriteSet) -> PreparedRows:
    """Render what the write set collected. A state row changed many times counts once."""
    lines: dict[str, list[str]] = defaultdict(list)
    for table, rows in write_set.appended.items():
        lines[table] = [line for _, _, line in rows]
    changed: dict[str, list[str]] = defaultdict(list)
    for state_key, encoded in write_set.changed.items():
        target = lines if state_key in write_set.created else changed
        for table, line in zip(tables_of(state_key[0]), encoded, strict=True):
            target[table].append(line)
    images = [
        {"block_number": number, "table_name": table, "key": key_row(table, key), "row": row}
        for (number, (name, key)), state_row in write_set.before.items()
        for table, row in zip(tables_of(name), split_row(name, state_row), strict=True)
    ]
    return PreparedRows(
        {table: (len(rows), "".join(rows).encode()) for table, rows in lines.items() if rows},
        {table: (len(rows), "".join(rows)) for table, rows in changed.items()},
        (len(images), to_json(images)),
        _grouped(write_set.incidents),
    )


async def project_and_prepare(write_set: WriteSet, events: list[Event]) -> PreparedRows:
    """Project the events into the write set and render it.

    Long work runs in a thread, while the server is busy with something else; nobody else may touch the write set
    meanwhile.
    """

    def work() -> PreparedRows:
        project(write_set, events)
        return prepare(write_set)

    return work() if len(events) < MIN_THREADED_EVENTS else await asyncio.to_thread(work)


def key_row(table: str, key: Key) -> Row:
    """Return the key columns of a state row, by name."""
    return dict(zip(KEYS[table], key, strict=True))


def _grouped(incidents: Iterable[Incident]) -> list[Row]:
    """Return one row per kind and subject, with the detail of its first incident."""
    grouped: dict[tuple[str, str], Row] = {}
    for incident in incidents:
        kind, subject = incident.kind, incident.subject
        new = {"kind": kind, "subject": subject, "detail": incident.detail, "first_block": incident.block_number}
        group = grouped.setdefault((kind, subject), new | {"count": 0})
        group["count"] += 1
        group["last_block"] = incident.block_number
    return list(grouped.values())
