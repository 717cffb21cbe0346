"""JSON text that keeps numbers exact (integers stay integers). Pure."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any


def to_json(value: Any) -> str:
    """Encode as JSON with integers of any size in full, which jsonb keeps exact. Does not accept bytes."""
    return json.dumps(value, default=_json_default, ensure_ascii=False, separators=(",", ":"))


def _json_default(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON form for {type(value).__name__}")


def from_json(text: str) -> Any:
    """Decode JSON with integers of any size as int and other numbers as Decimal. Raises ValueError."""
    return _DECODER.decode(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant)
