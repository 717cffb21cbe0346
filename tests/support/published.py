"""The queries that consumers run, as published: tests/data/queries.sql."""

from __future__ import annotations

import re
from pathlib import Path

FILE = Path(__file__).parents[1] / "data" / "queries.sql"


def queries() -> dict[str, str]:
    """Statement by the name of the query."""
    parts = re.split(r"^-- @query (\w+).*$", FILE.read_text(), flags=re.M)[1:]
    return {name: text.strip().rstrip(";") for name, text in zip(parts[::2], parts[1::2], strict=True)}
