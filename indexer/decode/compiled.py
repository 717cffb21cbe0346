"""Straight-line decoders for events of static types, generated from their ABI.

They take what certainly fits and leave the rest to eth-abi: a word that is padded wrongly, data that is too short, any
dynamic type. So they are never more lenient than the reference decoder, and its messages stay the ones people read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexer.decode.abi import Param

# (topics, data) -> arguments by name, or None: ask eth-abi.
Compiled = Callable[[Sequence[bytes], bytes], "dict[str, Any] | None"]

_INTEGER = re.compile(r"(u?)int(\d+)")
_BYTES = re.compile(r"bytes(\d+)")
_FIXED = re.compile(r"([a-z0-9]+)\[(\d+)\]")


class _Dynamic(Exception):
    """The type has no fixed place in the data."""


class _Writer:
    """Collects statements; each word of the input is read, checked and named once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.words = 0  # of the data, read so far
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def data_word(self) -> str:
        start = 32 * self.words
        self.words += 1
        return f"d[{start}:{start + 32}]"

    def value(self, kind: str, source: str) -> str:
        """An expression for one elementary value in the 32 bytes `source`. Raises _Dynamic."""
        v = self.name()
        if match := _BYTES.fullmatch(kind):
            size = int(match[1])
            self.lines.append(f"{v} = {source}")
            if size < 32:
                self.lines.append(f"if {v}[{size}:] != {bytes(32 - size)!r}: return None")
            return f"{v}[:{size}]"
        self.lines.append(f"{v} = int.from_bytes({source})")
        if kind == "address":
            self.lines.append(f"if {v} >> 160: return None")
            return f"'0x%040x' % {v}"
        if kind == "bool":
            self.lines.append(f"if {v} > 1: return None")
            return f"{v} == 1"
        integer = _INTEGER.fullmatch(kind)
        if integer is None:
            raise _Dynamic
        self._integer(v, signed=not integer[1], bits=int(integer[2]))
        return v

    def _integer(self, v: str, *, signed: bool, bits: int) -> None:
        if signed:
            self.lines.append(f"if {v} >> 255: {v} -= {1 << 256}")
            if bits < 256:
                self.lines.append(f"if not {-(1 << bits - 1)} <= {v} < {1 << bits - 1}: return None")
        elif bits < 256:
            self.lines.append(f"if {v} >> {bits}: return None")

    def of(self, param: Param) -> str:
        """An expression for a parameter that stands in the data."""
        if param.fields:
            if param.array_depth:
                raise _Dynamic
            return "{" + ", ".join(f"{f.name!r}: {self.of(f)}" for f in param.fields) + "}"
        if fixed := _FIXED.fullmatch(param.type):
            return "[" + ", ".join(self.value(fixed[1], self.data_word()) for _ in range(int(fixed[2]))) + "]"
        return self.value(param.type, self.data_word())


def compile_event(params: Sequence[Param]) -> Compiled | None:
    """The decoder of an event, None when one of its types is dynamic."""
    writer, parts, topics = _Writer(), [], 0
    try:
        for param in params:
            if param.indexed:
                topics += 1
                hashed = param.fields or param.type in ("string", "bytes") or param.type.endswith("]")
                source = f"t[{topics}]"
                parts.append(f"{param.name!r}: {source if hashed else writer.value(param.type, source)}")
            else:
                parts.append(f"{param.name!r}: {writer.of(param)}")
    except _Dynamic:
        return None
    lines = [f"if len(d) < {32 * writer.words}: return None", *writer.lines, "return {" + ", ".join(parts) + "}"]
    scope: dict[str, Any] = {}
    exec("def decode(t, d):\n    " + "\n    ".join(lines), scope)
    compiled: Compiled = scope["decode"]
    return compiled
