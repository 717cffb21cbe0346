"""Raw logs and blocks in PostgreSQL's binary COPY format: of hashes and data half the bytes of text, which neither side
turns into hex and back. Pure. Rows of other tables are text, which is faster for numeric
(`indexer.projections.row_encoder`).

Source of the format: PostgreSQL's documentation of COPY, "Binary Format"; a field is its length and its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
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
