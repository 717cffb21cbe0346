"""Location of the data that ships with the program: abis/, config/, migrations/.

In a wheel it lies inside the package (`indexer/_data`); in a checkout (editable install) next to the package.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def data_dir(kind: str) -> Path:
    """Return the folder of one kind of data: "abis", "config" or "migrations"."""
    shipped = _PACKAGE / "_data" / kind
    return shipped if shipped.is_dir() else _PACKAGE.parent / kind
