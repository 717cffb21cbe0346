"""Views `<table>_finalized` and `<table>_safe`: each table as of the last finalized or safe block.

They are for readers that must not see rows disappear. A row of an append table is included or not, by its block. For a
state table the row is the one before its first change above that block; these are stored as before-images down to
finalized.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Table

from indexer.chain.types import LOGS_PER_BLOCK
from indexer.schema.tables.metadata import public

_APPENDED = (
    'SELECT t.* FROM public."{name}" t'
    " WHERE t.unique_id < (SELECT (c.{block} + 1) * {logs_per_block} FROM indexer.checkpoint c)"
)
_STATE = """SELECT t.* FROM public."{name}" t
WHERE NOT EXISTS (
  SELECT FROM indexer.before_image b WHERE b.table_name = '{name}' AND b.key = jsonb_build_object({key}){above}
)
UNION ALL
SELECT r.* FROM (
  SELECT DISTINCT ON (b.key) b.row FROM indexer.before_image b
  WHERE b.table_name = '{name}'{above} ORDER BY b.key, b.block_number
) i CROSS JOIN LATERAL jsonb_populate_record(NULL::public."{name}", i.row) r
WHERE i.row IS NOT NULL"""
# The rollback floor is finalized, and no before-image is at or below it, so `_finalized` needs no condition.
_LEVELS = {
    "_finalized": ("rollback_floor", ""),
    "_safe": ("safe_block", " AND b.block_number > (SELECT c.safe_block FROM indexer.checkpoint c)"),
}
SUFFIXES = {"_finalized": "as of the last finalized block", "_safe": "as of the last safe block"}


def _view(table: Table, block: str, above: str) -> str:
    if table.info["kind"] == "append":
        return _APPENDED.format(name=table.name, block=block, logs_per_block=LOGS_PER_BLOCK)
    key = ", ".join(f"'{column.name}', t.\"{column.name}\"" for column in table.primary_key.columns)
    return _STATE.format(name=table.name, key=key, above=above)


def _views() -> Iterator[tuple[str, str]]:
    for suffix, (block, above) in _LEVELS.items():
        for table in sorted(public.sorted_tables, key=lambda table: table.name):
            if table.info.get("kind") in ("append", "state"):
                yield f"{table.name}{suffix}", _view(table, block, above)


def views() -> dict[str, str]:
    """Return the queries of the views by name."""
    return dict(_views())


def split(view: str) -> tuple[str, str]:
    """Return table and suffix of a `_finalized` or `_safe` view; for any other, the name itself and ""."""
    for suffix in SUFFIXES:
        if view.endswith(suffix):
            return view.removesuffix(suffix), suffix
    return view, ""
