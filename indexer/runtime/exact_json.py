"""Rows as PostgreSQL takes them, or not at all (integers stay integers: a misfit is an incident, never a stall). Pure.

Every row that is written passes through here: it is checked and written in COPY's text format in one pass, by a
function generated for its columns and the classes of its values. Text beats the binary format for numeric(78,0).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any


def to_json(value: Any) -> str:
    """JSON with integers of any size in full: jsonb keeps them exact. Bytes are not expected."""
    return json.dumps(value, default=_json_default, ensure_ascii=False, separators=(",", ":"))


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON form for {type(value).__name__}")
