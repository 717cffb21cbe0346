"""Encoders for PostgreSQL's COPY formats. Pure.

Raw logs and blocks are copied in the binary format: hashes and data take half the bytes of the text format, and neither
side converts to hex and back. Rows of other tables are copied as text, which is faster for numeric values
(`indexer.projections.row_encoder`).

Source: PostgreSQL's documentation of COPY, "Binary Format". A field is its length followed by its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct

from indexer.chain.types import Header, Log

_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # No flags, no header extension.
_END = b"\xff\xff"
# Number of fields; block number, log index, address, transaction hash and transaction index; length of the topics.
_log = Struct(">h iq ii i20s i32s ii i").pack
_block = Struct(">h iq i32s").pack
_stamp = Struct(">iq").pack
_NULL = b"\xff\xff\xff\xff"


def log_rows(logs: Iterable[Log]) -> bytes:
    """Encode rows of indexer.raw_log: the fields of `Log` up to `data`, in binary format."""
    rows = [_BEGIN]
    add = rows.append
    for number, index, address, hash_, transaction_index, topics, data, *_ in logs:
        add(_log(7, 8, number, 4, index, 20, address, 32, hash_, 4, transaction_index, 32 * len(topics)))
        rows += topics
        add(len(data).to_bytes(4))
        add(data)
    add(_END)
    return b"".join(rows)


def block_rows(blocks: Iterable[Header]) -> bytes:
    """Encode rows of indexer.block in binary format: number, hash, parent hash (NULL when unknown), timestamp."""
    rows = [
        _block(4, 8, number, 32, hash_) + (b"\0\0\0\x20" + parent if parent else _NULL) + _stamp(8, stamp)
        for number, hash_, parent, stamp, *_ in blocks
    ]
    return b"".join([_BEGIN, *rows, _END])


def rowset_sql(kinds: Mapping[str, str]) -> str:
    """Return SQL for a FROM clause that yields the rows of these columns, as r, from their COPY text in parameter $1.

    COPY itself cannot replace rows. Going through a temporary table would take four statements, be no faster, and need
    one more right for the writing role. JSON rows take the server 50% longer.
    """
    fields = []
    for n, (column, kind) in enumerate(kinds.items(), 1):
        type_name = sql_type(kind)
        field = _unescaped(f"a[{n}]") if type_name in ("text", "jsonb") else f"a[{n}]"
        fields.append(f'{field}::{type_name} AS "{column}"')
    lines = r"SELECT string_to_array(l, E'\t', E'\\N') AS a FROM string_to_table($1, E'\n') l WHERE l <> ''"
    # OFFSET 0 makes the server split a line once instead of once per field.
    return f"(SELECT {', '.join(fields)} FROM ({lines} OFFSET 0) l) AS r"


def sql_type(kind: str) -> str:
    """Return the SQL type of a column's kind (see `catalog.COLUMNS`)."""
    plain = kind.removesuffix(" not null")
    return {"json": "jsonb"}.get(plain, plain)


def _unescaped(field: str) -> str:
    """Return SQL that unescapes a field as COPY does.

    Escaped backslashes are first replaced by a sequence of their own, so that they are not read as part of the others.
    """
    text = rf"replace({field}, E'\\\\', E'\\B')"
    for code, character in (("t", r"\t"), ("n", r"\n"), ("r", r"\r"), ("B", r"\\")):
        text = rf"replace({text}, E'\\{code}', E'{character}')"
    return rf"CASE WHEN strpos({field}, E'\\') > 0 THEN {text} ELSE {field} END"
