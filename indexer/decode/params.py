"""Event ABIs and their decoders: the compiled one where it takes the log, else the reference (eth-abi, strict).

A decoded event is a dict by argument name: integers are int, addresses lower-case 0x text, bytes are bytes, tuples
dicts by field name, arrays lists. An indexed argument of dynamic type is only present as its hash: 32 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Args = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Param:
    """One argument or tuple field. `type` is the canonical ABI type, tuples written out."""

    name: str
    type: str
    indexed: bool
    fields: tuple[Param, ...] = ()
    # How many array suffixes stand behind a tuple: 0 for (..), 1 for (..)[], 2 for (..)[][].
    array_depth: int = 0
