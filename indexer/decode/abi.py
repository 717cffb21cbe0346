"""Event ABIs and their decoders: the compiled one if it accepts the log, else the reference (eth-abi, strict).

A decoded event is a dict by argument name: integers are int, addresses are lower-case 0x text, bytes are bytes, tuples
are dicts by field name, arrays are lists. An indexed argument of dynamic type is present only as its hash (32 bytes).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

from indexer.decode.codegen import Args, Compiled, Param, compile_event
from indexer.errors import DecodeMismatchError

# Canonical types, as compilers write them. Arrays of size 0 are excluded: an array of them could have any length and
# take no space, and nobody emits one.
_SIZES = "|".join(str(bits) for bits in range(8, 257, 8))
_ELEMENTARY = re.compile(
    rf"u?int({_SIZES})|address|bool|string|function|bytes([1-9]|[12]\d|3[0-2])?|u?fixed({_SIZES})x([1-9]|[1-7]\d|80)"
)
_SUFFIXES = re.compile(r"(\[([1-9]\d*)?\])*")
# Longer data that is not in the standard encoding is refused (bytes). Offsets that share a tail can expand to a
# thousand times the data, and the reference decoder would write all of it out.
MAX_UNUSUAL = 1 << 16


@dataclass(frozen=True, slots=True)
class EventAbi:
    """An event of a contract's ABI and its decoder."""

    name: str
    signature: str
    topic0: bytes
    params: tuple[Param, ...]
    indexed_count: int
    _data_types: tuple[str, ...] = field(repr=False, default=())
    _compiled: Compiled | None = field(repr=False, compare=False, default=None)

    def decode(self, topics: Sequence[bytes], data: bytes) -> Args:
        """Return the arguments by name, in the ABI's order.

        Raises DecodeMismatchError and, whatever the bytes are, nothing else.
        """
        if len(topics) != self.indexed_count + 1:
            raise DecodeMismatchError(f"{self.name} has {self.indexed_count + 1} topics, the log {len(topics)}")
        if self._compiled is not None:
            decoded = self._compiled(topics, data)
            if decoded is not None:
                return decoded
            if len(data) > MAX_UNUSUAL and "[" in self.signature:
                raise DecodeMismatchError(f"{len(data)} bytes that are not the standard encoding of {self.name}")
        return self.decode_by_reference(topics, data)

    def decode_by_reference(self, topics: Sequence[bytes], data: bytes) -> Args:
        """Decode with eth-abi, which decides everything that the compiled decoder does not accept.

        Raises DecodeMismatchError.
        """
        from eth_abi.abi import decode as abi_decode  # Imported here because it is slow to import and seldom needed.
        from eth_abi.exceptions import DecodingError

        try:
            values = iter(abi_decode(self._data_types, data))
            words = iter(topics[1:])
            return {p.name: _topic(p, next(words)) if p.indexed else _shape(p, next(values)) for p in self.params}
        except (DecodingError, UnicodeDecodeError, OverflowError, ValueError) as error:
            detail = " ".join(str(error).split())[:200]
            raise DecodeMismatchError(f"data does not fit {self.name}: {detail or type(error).__name__}") from error


def load_abi(path: Path) -> list[EventAbi]:
    """Load the events of one JSON ABI file. Raises OSError, or ValueError with the problem when it is not valid."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text") from error
    if isinstance(entries, dict):
        entries = entries.get("abi")
    if not isinstance(entries, list):
        raise ValueError("not a JSON ABI: it must be a list of entries")
    events = [_event(e) for e in entries if isinstance(e, dict) and e.get("type") == "event" and not e.get("anonymous")]
    if not events:
        raise ValueError("contains no event")
    return events


def _event(entry: dict[str, Any]) -> EventAbi:
    name, inputs = entry.get("name"), entry.get("inputs")
    if not isinstance(name, str) or not isinstance(inputs, list):
        raise ValueError("an event without name or inputs")
    params = tuple(_param(p, i) for i, p in enumerate(inputs))
    names = [p.name for p in params]
    if len(set(names)) != len(names):
        raise ValueError(f"event {name} has two arguments with the same name")
    signature = f"{name}({','.join(p.type for p in params)})"
    return EventAbi(
        name,
        signature,
        keccak(signature.encode()),
        params,
        sum(p.indexed for p in params),
        tuple(p.type for p in params if not p.indexed),
        compile_event(params),
    )


def _param(entry: dict[str, Any], index: int) -> Param:
    kind = entry.get("type")
    if not isinstance(kind, str):
        raise ValueError(f"argument {index} has no type")
    fields: tuple[Param, ...] = ()
    depth = 0
    if kind.startswith("tuple"):
        fields = tuple(_param(c, i) for i, c in enumerate(entry.get("components") or ()))
        base, suffix = "tuple", kind[len("tuple") :]
        depth = suffix.count("[")
        kind = f"({','.join(f.type for f in fields)}){suffix}"
    else:
        base = kind.split("[")[0]
        suffix = kind[len(base) :]
    known = bool(fields) if base == "tuple" else _ELEMENTARY.fullmatch(base)
    if not known or not _SUFFIXES.fullmatch(suffix):
        raise ValueError(f"argument {index}: {kind!r} is not an ABI type")
    # Unnamed arguments are named by their index, as in JSON-RPC tooling.
    return Param(entry.get("name") or str(index), kind, bool(entry.get("indexed")), fields, depth)


def _topic(param: Param, word: bytes) -> Any:
    dynamic = param.fields or param.type in ("string", "bytes") or param.type.endswith("]")
    if dynamic:
        return word
    from eth_abi.abi import decode as abi_decode

    (value,) = abi_decode((param.type,), word)
    return _shape(param, value)


def _shape(param: Param, value: Any) -> Any:
    """Convert eth-abi's tuples to lists and dicts, and addresses to lower case."""
    if param.fields:
        return _each(
            param.array_depth, value, lambda v: {f.name: _shape(f, x) for f, x in zip(param.fields, v, strict=True)}
        )
    depth = param.type.count("[")
    if param.type.startswith("address"):
        return _each(depth, value, lambda v: v.lower())
    return _each(depth, value, lambda v: v)


def _each(depth: int, value: Any, convert: Callable[[Any], Any]) -> Any:
    return convert(value) if depth == 0 else [_each(depth - 1, v, convert) for v in value]
