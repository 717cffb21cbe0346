"""JSON text that keeps integers exact (integers stay integers). Pure."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any


def to_json(value: Any) -> str:
    """Encode as JSON with integers of any size in full, which jsonb keeps exact. Does not accept bytes."""
    return json.dumps(value, default=_json_default, ensure_ascii=False, separators=(",", ":"))


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON form for {type(value).__name__}")
