"""Messages: a change of a row as key, value and headers. Pure.

The value is the row as JSON, with `numeric` columns as decimal strings; None (a tombstone) where the row is gone. So a
consumer that keeps the last value of each key has the table.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from indexer.db.catalog import KEYS
from indexer.feed.changes import Change, Op
from indexer.feed.marker import Marker
from indexer.runtime.exact_json import to_json
from indexer.streams.sink import StreamContext


class Message(NamedTuple):
    """A message. `table`: the row's table, which decides the topic. `key`: the primary key's values, joined by `|`."""

    table: str
    key: str
    value: str | None
    headers: dict[str, str]


def message_of(change: Change, generation: int, context: StreamContext) -> Message:
    """Return the message of a change.

    Args:
        change: the change; a DELETE becomes a tombstone.
        generation: generation of the window or snapshot that it belongs to.
        context: where it comes from.
    """
    deleted = change.op is Op.DELETE
    place = f"{generation}/{change.seq}-{change.ord}-{change.item}"
    headers = {
        "seq": str(change.seq),
        "ord": f"{change.ord}-{change.item}",
        "gen": str(generation),
        "op": "d" if deleted else "u",
        "level": context.level,
        "ce_id": f"{context.deployment}/{place}",
        "ce_type": f"xyz.reya.{change.table}.{'d' if deleted else 'u'}.v1",
    }
    return Message(change.table, change.key_text, None if deleted else row_json(change), headers)


def row_json(change: Change) -> str:
    """Return a row as JSON: integers as numbers, `numeric` columns as strings of every digit, timestamps as text."""
    return to_json(change.row)


def key_columns(table: str) -> tuple[str, ...]:
    """Return the columns whose values make up the key, in order."""
    return KEYS[table]


def marker_json(marker: Marker) -> dict[str, Any]:
    """Return a marker as an object for JSON. Hashes are 0x-prefixed, times in UTC."""
    return {
        "seq": marker.seq,
        "gen": marker.generation,
        "epoch": marker.epoch,
        "kind": marker.kind,
        "from": marker.from_block,
        "to": marker.to_block,
        "to_hash": None if marker.to_hash is None else "0x" + marker.to_hash.hex(),
        "safe": marker.safe,
        "finalized": marker.finalized,
        "topics": marker.counts,
        "reorg": marker.reorg,
        "at": marker.at.astimezone(UTC).isoformat() if isinstance(marker.at, datetime) else marker.at,
    }
