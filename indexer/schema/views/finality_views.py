"""`<table>_finalized` and `<table>_safe`: each table as it is at the last finalized, or safe, block, for who must not
see a row that goes away.

Rows of append tables are there or not. A state table's row is the one before its first change above that block: these
are kept as before-images down to finalized.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Table

from indexer.schema.tables.columns import public

_APPENDED = (
    'SELECT t.* FROM public."{name}" t WHERE t.unique_id < (SELECT (c.{block} + 1) * 100000 FROM indexer.checkpoint c)'
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
# No before-image is at or below the floor, which is finalized.
_LEVELS = {
    "_finalized": ("rollback_floor", ""),
    "_safe": ("safe_block", " AND b.block_number > (SELECT c.safe_block FROM indexer.checkpoint c)"),
}
SUFFIXES = {"_finalized": "as of the last finalized block", "_safe": "as of the last safe block"}


def _view(table: Table, block: str, above: str) -> str:
    if table.info["kind"] == "append":
        return _APPENDED.format(name=table.name, block=block)
    key = ", ".join(f"'{column.name}', t.\"{column.name}\"" for column in table.primary_key.columns)
    return _STATE.format(name=table.name, key=key, above=above)


def _views() -> Iterator[tuple[str, str]]:
    for suffix, (block, above) in _LEVELS.items():
        for table in sorted(public.sorted_tables, key=lambda table: table.name):
            if table.info.get("kind") in ("append", "state"):
                yield f"{table.name}{suffix}", _view(table, block, above)


def views() -> dict[str, str]:
    """View -> its query. After every table is described."""
    return dict(_views())


def split(view: str) -> tuple[str, str]:
    """The table and the suffix of one of these views; the name itself and "" for any other."""
    for suffix in SUFFIXES:
        if view.endswith(suffix):
            return view.removesuffix(suffix), suffix
    return view, ""
