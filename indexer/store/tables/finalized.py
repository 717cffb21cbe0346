"""`<table>_finalized`: each table as it is at the last finalized block, for who must never see a row that goes away.

Rows of append tables are there or not. A state table's row is the one before its first change above that block: exactly
these are kept as before-images, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Table

from indexer.store.tables.public_columns import public

_APPENDED = (
    'SELECT t.* FROM public."{name}" t'
    " WHERE t.unique_id < (SELECT (c.rollback_floor + 1) * 100000 FROM indexer.checkpoint c)"
)
_STATE = """SELECT t.* FROM public."{name}" t
WHERE NOT EXISTS (
  SELECT FROM indexer.before_image b WHERE b.table_name = '{name}' AND b.key = jsonb_build_object({key})
)
UNION ALL
SELECT r.* FROM (
  SELECT DISTINCT ON (b.key) b.row FROM indexer.before_image b
  WHERE b.table_name = '{name}' ORDER BY b.key, b.block_number
) i CROSS JOIN LATERAL jsonb_populate_record(NULL::public."{name}", i.row) r
WHERE i.row IS NOT NULL"""


def _view(table: Table) -> str:
    if table.info["kind"] == "append":
        return _APPENDED.format(name=table.name)
    key = ", ".join(f"'{column.name}', t.\"{column.name}\"" for column in table.primary_key.columns)
    return _STATE.format(name=table.name, key=key)


def _views() -> Iterator[tuple[str, str]]:
    for table in sorted(public.sorted_tables, key=lambda table: table.name):
        if table.info.get("kind") in ("append", "state"):
            yield f"{table.name}_finalized", _view(table)


def views() -> dict[str, str]:
    """View -> its query, by name. After every table is described."""
    return dict(_views())
