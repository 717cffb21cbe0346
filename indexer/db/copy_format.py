"""PostgreSQL's COPY formats. Pure.

Raw logs and blocks are copied in the binary format: for hashes and data half the bytes of text, which neither side
turns into hex and back. Rows of other tables are text, which is faster for numeric (`indexer.projections.row_encoder`).

Source: PostgreSQL's documentation of COPY, "Binary Format"; a field is its length and its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct

from indexer.chain.types import Header, Log

_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension
_END = b"\xff\xff"
# The number of fields, then block number, log index, address, transaction hash and index; the length of the topics.
_log = Struct(">h iq ii i20s i32s ii i").pack
_block = Struct(">h iq i32s").pack
_stamp = Struct(">iq").pack
_NULL = b"\xff\xff\xff\xff"


def log_rows(logs: Iterable[Log]) -> bytes:
    """Rows of indexer.raw_log: the columns of `Log` up to `data`."""
    rows = [_BEGIN]
    add = rows.append
    for number, index, address, transaction, position, topics, data, *_ in logs:
        add(_log(7, 8, number, 4, index, 20, address, 32, transaction, 4, position, 32 * len(topics)))
        rows += topics
        add(len(data).to_bytes(4))
        add(data)
    add(_END)
    return b"".join(rows)


def block_rows(blocks: Iterable[Header]) -> bytes:
    """Rows of indexer.block: number, hash, parent hash (NULL when it is not known), timestamp."""
    rows = [
        _block(4, 8, number, 32, hash_) + (b"\0\0\0\x20" + parent if parent else _NULL) + _stamp(8, stamp)
        for number, hash_, parent, stamp, *_ in blocks
    ]
    return b"".join([_BEGIN, *rows, _END])


def rowset_sql(kinds: Mapping[str, str]) -> str:
    """What stands for these columns' rows in a FROM clause, as r, when the parameter $1 is their COPY text.

    COPY itself cannot replace rows. By way of a temporary table it would be four statements, no faster and a right more
    that the writing role needs; rows of JSON take the server half as long again.
    """
    fields = []
    for n, (column, kind) in enumerate(kinds.items(), 1):
        named = sql_type(kind)
        field = _unescaped(f"a[{n}]") if named in ("text", "jsonb") else f"a[{n}]"
        fields.append(f'{field}::{named} AS "{column}"')
    lines = r"SELECT string_to_array(l, E'\t', E'\\N') AS a FROM string_to_table($1, E'\n') l WHERE l <> ''"
    return f"(SELECT {', '.join(fields)} FROM ({lines} OFFSET 0) l) AS r"  # OFFSET: split once, not for each field


def sql_type(kind: str) -> str:
    """Of a column's kind, see `facts.COLUMNS`."""
    plain = kind.removesuffix(" not null")
    return {"json": "jsonb"}.get(plain, plain)


def _unescaped(field: str) -> str:
    """What COPY makes of a field. Escaped backslashes get a form that is none of the others before those are read."""
    text = rf"replace({field}, E'\\\\', E'\\B')"
    for code, character in (("t", r"\t"), ("n", r"\n"), ("r", r"\r"), ("B", r"\\")):
        text = rf"replace({text}, E'\\{code}', E'{character}')"
    return rf"CASE WHEN strpos({field}, E'\\') > 0 THEN {text} ELSE {field} END"
