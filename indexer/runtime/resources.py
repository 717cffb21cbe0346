"""Where the facts that ship with the program are: abis/, config/, migrations/.

In a wheel they lie inside the package (`indexer/_data`); in a checkout (editable install) beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def data_dir(kind: str) -> Path:
    """The folder of one kind of facts: "abis", "config" or "migrations"."""
    shipped = _PACKAGE / "_data" / kind
    return shipped if shipped.is_dir() else _PACKAGE.parent / kind
