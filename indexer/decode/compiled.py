"""Straight-line decoders for events, generated from their ABI.

They take what certainly fits and leave the rest to eth-abi: a word that is padded wrongly, data that is too short, an
unusual order of tails, arrays of anything but elementary types. So they are never more lenient than the reference
decoder, and its messages stay the ones people read.
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


class _Unsupported(Exception):
    """A type that is left to eth-abi: arrays of arrays, of tuples, of strings."""


def _is_dynamic(param: Param) -> bool:
    if param.fields and not param.array_depth:
        return any(_is_dynamic(f) for f in param.fields)
    return param.type in ("string", "bytes") or "[]" in param.type


def _head_words(param: Param) -> int:
    """Words of the head: what stands before the first tail."""
    if param.array_depth:
        raise _Unsupported
    if _is_dynamic(param):
        return 1
    if param.fields:
        return sum(_head_words(f) for f in param.fields)
    fixed = _FIXED.fullmatch(param.type)
    return int(fixed[2]) if fixed else 1


class _Writer:
    """Collects statements. `p` is the position in the data where the next tail must begin: tails follow one another in
    the order of the types, as every encoder writes them; anything else is left to eth-abi."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def check(self, condition: str) -> None:
        self.lines.append(f"if {condition}: return None")

    def value(self, kind: str, source: str) -> str:
        """An expression for one elementary value in the 32 bytes `source`."""
        v = self.name()
        if match := _BYTES.fullmatch(kind):
            size = int(match[1])
            self.lines.append(f"{v} = {source}")
            if size < 32:
                self.check(f"{v}[{size}:] != {bytes(32 - size)!r}")
            return f"{v}[:{size}]"
        self.lines.append(f"{v} = int.from_bytes({source})")
        if kind == "address":
            self.check(f"{v} >> 160")
            return f"'0x%040x' % {v}"
        if kind == "bool":
            self.check(f"{v} > 1")
            return f"{v} == 1"
        integer = _INTEGER.fullmatch(kind)
        if integer is None:
            raise _Unsupported
        bits = int(integer[2])
        if not integer[1]:
            self.lines.append(f"if {v} >> 255: {v} -= {1 << 256}")
            if bits < 256:
                self.check(f"not {-(1 << bits - 1)} <= {v} < {1 << bits - 1}")
        elif bits < 256:
            self.check(f"{v} >> {bits}")
        return v

    def sequence(self, params: Sequence[Param], base: str) -> list[str]:
        """Expressions for parameters or tuple fields whose head begins at `base`."""
        words = sum(map(_head_words, params))
        self.check(f"len(d) < {base} + {32 * words}")
        self.lines.append(f"p = {base} + {32 * words}")
        at, parts = 0, []
        for param in params:
            if _is_dynamic(param):
                self.check(f"int.from_bytes({_word(base, at)}) != p - {base}")
                parts.append(self.tail(param))
            else:
                parts.append(self.static(param, base, at))
            at += _head_words(param)
        return parts

    def static(self, param: Param, base: str, at: int) -> str:
        """A parameter that stands in the head, at word `at`."""
        if param.fields:
            parts = []
            for f in param.fields:
                parts.append(f"{f.name!r}: {self.static(f, base, at)}")
                at += _head_words(f)
            return "{" + ", ".join(parts) + "}"
        if fixed := _FIXED.fullmatch(param.type):
            return "[" + ", ".join(self.value(fixed[1], _word(base, at + i)) for i in range(int(fixed[2]))) + "]"
        return self.value(param.type, _word(base, at))

    def tail(self, param: Param) -> str:
        """A parameter whose content begins at `p`, which moves behind it."""
        if param.fields:
            base = self.name()
            self.lines.append(f"{base} = p")
            parts = self.sequence(param.fields, base)
            return "{" + ", ".join(f"{f.name!r}: {x}" for f, x in zip(param.fields, parts, strict=True)) + "}"
        size, whole = self.name(), self.name()
        self.check("len(d) < p + 32")
        self.lines.append(f"{size} = int.from_bytes(d[p:p + 32])")
        if param.type in ("string", "bytes"):
            self.lines.append(f"{whole} = d[p + 32:p + 32 + -(-{size} // 32) * 32]")
            self.check(f"len({whole}) != -(-{size} // 32) * 32 or any({whole}[{size}:])")
            self.lines.append(f"p += 32 + len({whole})")
            return f"{whole}[:{size}]" + (".decode()" if param.type == "string" else "")
        return self.array(param.type.removesuffix("[]"), size, whole)

    def array(self, kind: str, size: str, whole: str) -> str:
        """A dynamic array of an elementary type, of `size` entries behind `p`."""
        self.check(f"len(d) < p + 32 + 32 * {size}")
        self.lines += [f"{whole} = []", "p += 32", f"for _ in range({size}):"]
        outer, self.lines = self.lines, []
        one = self.value(kind, "d[p:p + 32]")
        outer += [f"    {line}" for line in (*self.lines, f"{whole}.append({one})", "p += 32")]
        self.lines = outer
        return whole


def _word(base: str, at: int) -> str:
    start = 32 * at
    return f"d[{start}:{start + 32}]" if base == "0" else f"d[{base} + {start}:{base} + {start + 32}]"


def compile_event(params: Sequence[Param]) -> Compiled | None:
    """The decoder of an event, None when one of its types is not supported."""
    writer = _Writer()
    try:
        indexed = [p for p in params if p.indexed]
        by_name = {p.name: _topic(writer, p, f"t[{i}]") for i, p in enumerate(indexed, 1)}
        plain = [p for p in params if not p.indexed]
        by_name |= dict(zip((p.name for p in plain), writer.sequence(plain, "0"), strict=True))
    except _Unsupported:
        return None
    body = [*writer.lines, "return {" + ", ".join(f"{p.name!r}: {by_name[p.name]}" for p in params) + "}"]
    scope: dict[str, Any] = {}
    # Our own text: names of arguments go in by repr. A string that is no UTF-8 is eth-abi's to refuse.
    lines = ["def decode(t, d):", "    try:", *(f"        {line}" for line in body)]
    exec("\n".join([*lines, "    except UnicodeDecodeError:", "        return None"]), scope)
    compiled: Compiled = scope["decode"]
    return compiled


def _topic(writer: _Writer, param: Param, source: str) -> str:
    hashed = param.fields or param.type in ("string", "bytes") or param.type.endswith("]")
    return source if hashed else writer.value(param.type, source)
