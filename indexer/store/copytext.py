"""Raw logs and blocks in PostgreSQL's text COPY format. Pure. Rows of other tables: `indexer.projections.fit`."""

from __future__ import annotations

from collections.abc import Iterable

from indexer.chain.types import Header, Log
from indexer.projections.fit import NULL


def log_lines(logs: Iterable[Log]) -> bytes:
    """Rows of indexer.raw_log: the columns of `Log` up to `data`."""
    return "".join(
        [
            f"{number}\t{index}\t\\\\x{address.hex()}\t\\\\x{transaction.hex()}\t{position}"
            f"\t\\\\x{b''.join(topics).hex()}\t\\\\x{data.hex()}\n"
            for number, index, address, transaction, position, topics, data, *_ in logs
        ]
    ).encode()


def block_lines(blocks: Iterable[Header]) -> bytes:
    """Rows of indexer.block: number, hash, parent hash (NULL when it is not known), timestamp."""
    return "".join([f"{n}\t{_bytea(h)}\t{_bytea(p) if p else NULL}\t{t}\n" for n, h, p, t, *_ in blocks]).encode()


def _bytea(value: bytes) -> str:
    return f"\\\\x{value.hex()}"
