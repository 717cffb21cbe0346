"""Event parameters, and the straight-line decoders generated for them.

A generated decoder accepts what certainly fits and leaves the rest to eth-abi: a word with wrong padding, data that is
too short, an unusual order of tails. So it is never more lenient than the reference decoder, and the error messages
that people read are always the reference decoder's. It reads each word once, and trusts no length before the data has
room for it: the cost of a log is linear in its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from indexer.errors import UnsupportedTypeError

Args = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Param:
    """An event argument or tuple field. `type` is the canonical ABI type, with tuples written out."""

    name: str
    type: str
    indexed: bool
    fields: tuple[Param, ...] = ()
    # Number of array suffixes after a tuple: 0 for (..), 1 for (..)[], 2 for (..)[][].
    array_depth: int = 0


# (topics, data) -> arguments by name, or None when eth-abi must decide.
Compiled = Callable[[Sequence[bytes], bytes], "dict[str, Any] | None"]
_INTEGER = re.compile(r"(u?)int(\d+)")
_BYTES = re.compile(r"bytes(\d+)")
_SUFFIX = re.compile(r"\[(\d*)\]")
# Largest static array that is written out element by element (words).
MAX_WORDS = 1024


@dataclass(frozen=True, slots=True)
class AbiShape:
    """An ABI type as the generator sees it.

    An elementary type has a `kind`, a tuple has `fields`, an array has `item` and `size` (None: in the data).
    """

    kind: str = ""
    fields: tuple[tuple[str, AbiShape], ...] | None = None
    item: AbiShape | None = None
    size: int | None = None

    @property
    def dynamic(self) -> bool:
        """Whether the value is encoded in the tail."""
        if self.item is not None:
            return self.size is None or self.item.dynamic
        if self.fields is not None:
            return any(field.dynamic for _, field in self.fields)
        return self.kind in ("string", "bytes")

    @property
    def words(self) -> int:
        """Number of words that the value takes in the head, before the first tail."""
        if self.dynamic:
            return 1
        if self.item is not None:
            return (self.size or 0) * self.item.words
        return 1 if self.fields is None else sum(field.words for _, field in self.fields)


def shape_of(param: Param) -> AbiShape:
    """Return the shape of a parameter's type."""
    base = param.type[: param.type.rindex(")") + 1] if param.fields else param.type.split("[")[0]
    shape = AbiShape(fields=tuple((f.name, shape_of(f)) for f in param.fields)) if param.fields else AbiShape(base)
    for size in _SUFFIX.findall(param.type[len(base) :]):
        shape = AbiShape(item=shape, size=int(size) if size else None)
    return shape


class _SourceWriter:
    """Collects the statements of a decoder.

    In the generated code, `p` is the offset in the data where the next tail must begin (bytes). Tails follow one
    another in the order of the types, as every encoder writes them; anything else is left to eth-abi.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def line(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    def check(self, condition: str) -> None:
        self.line(f"if {condition}: return None")

    def value(self, kind: str, source: str) -> str:
        """Return an expression for one elementary value in the 32 bytes `source`."""
        v = self.name()
        if match := _BYTES.fullmatch(kind):
            size = int(match[1])
            self.line(f"{v} = {source}")
            if size < 32:
                self.check(f"{v}[{size}:] != {bytes(32 - size)!r}")
            return f"{v}[:{size}]" if size < 32 else v
        if kind == "address":
            self.line(f"{v} = {source}")
            self.check(f"{v}[:12] != {bytes(12)!r}")
            return f"'0x' + {v}[12:].hex()"
        self.line(f"{v} = number({source})")
        if kind == "bool":
            self.check(f"{v} > 1")
            return f"{v} == 1"
        integer = _INTEGER.fullmatch(kind)
        if integer is None:
            raise UnsupportedTypeError
        bits = int(integer[2])
        if not integer[1]:
            self.line(f"if {v} >> 255: {v} -= {1 << 256}")
            if bits < 256:
                self.check(f"not {-(1 << bits - 1)} <= {v} < {1 << bits - 1}")
        elif bits < 256:
            self.check(f"{v} >> {bits}")
        return v

    def sequence(self, shapes: Sequence[AbiShape], base: str) -> list[str]:
        """Return expressions for values whose heads begin at `base`, followed by their tails; `p` ends after those."""
        words = sum(shape.words for shape in shapes)
        self.check(f"len(d) < {_plus(base, words)}")
        self.line(f"p = {_plus(base, words)}")
        at, parts = 0, []
        for shape in shapes:
            if shape.dynamic:
                self.check(f"number({_word(base, at)}) != p{'' if base == '0' else f' - {base}'}")
                parts.append(self.tail(shape))
            else:
                parts.append(self.static(shape, base, at))
            at += shape.words
        return parts

    def static(self, shape: AbiShape, base: str, at: int) -> str:
        """Return an expression for a value that is entirely in the head, at word `at` from `base`."""
        if shape.fields is not None:
            parts = []
            for name, field in shape.fields:
                parts.append(f"{name!r}: {self.static(field, base, at)}")
                at += field.words
            return "{" + ", ".join(parts) + "}"
        if shape.words > MAX_WORDS:
            raise UnsupportedTypeError
        if shape.item is not None:
            size, each = shape.size or 0, shape.item.words
            return "[" + ", ".join(self.static(shape.item, base, at + each * i) for i in range(size)) + "]"
        return self.value(shape.kind, _word(base, at))

    def tail(self, shape: AbiShape) -> str:
        """Return an expression for a value whose content begins at `p`, and move `p` past it."""
        if shape.fields is not None:
            base = self.base_at_p()
            names = [name for name, _ in shape.fields]
            parts = self.sequence([field for _, field in shape.fields], base)
            return "{" + ", ".join(f"{n!r}: {x}" for n, x in zip(names, parts, strict=True)) + "}"
        if shape.item is not None and shape.size is not None:
            return self.items(shape.item, str(shape.size))
        size = self.name()
        self.check("len(d) < p + 32")
        self.line(f"{size} = number(d[p:p + 32])")
        self.line("p += 32")
        return self.items(shape.item, size) if shape.item is not None else self.text(shape.kind, size)

    def text(self, kind: str, size: str) -> str:
        """Return an expression for `size` bytes at `p`, padded with zeros to whole words."""
        padded = self.name()
        self.line(f"{padded} = d[p:p + -(-{size} // 32) * 32]")
        self.check(f"len({padded}) != -(-{size} // 32) * 32 or any({padded}[{size}:])")
        self.line(f"p += len({padded})")
        return f"{padded}[:{size}]" + (".decode()" if kind == "string" else "")

    def items(self, item: AbiShape, size: str) -> str:
        """Return an expression for the `size` items of an array, whose heads begin at `p`."""
        base, result, i = self.base_at_p(), self.name(), self.name()
        self.check(f"len(d) < {base} + {32 * item.words} * {size}")
        self.line(f"{result} = []")
        if item.dynamic:
            self.line(f"p = {base} + 32 * {size}")
        self.line(f"for {i} in range({base}, {base} + {32 * item.words} * {size}, {32 * item.words}):")
        self._depth += 1
        if item.dynamic:
            self.check(f"number(d[{i}:{i} + 32]) != p - {base}")
        self.line(f"{result}.append({self.tail(item) if item.dynamic else self.static(item, i, 0)})")
        self._depth -= 1
        if not item.dynamic:
            self.line(f"p = {base} + {32 * item.words} * {size}")
        return result

    def base_at_p(self) -> str:
        """Return a name for the current value of `p`."""
        base = self.name()
        self.line(f"{base} = p")
        return base


def _plus(base: str, words: int) -> str:
    return str(32 * words) if base == "0" else f"{base} + {32 * words}"


def _word(base: str, at: int) -> str:
    return f"d[{_plus(base, at)}:{_plus(base, at + 1)}]"


def compile_event(params: Sequence[Param]) -> Compiled | None:
    """Generate the decoder of an event; None when one of its types is not supported."""
    writer = _SourceWriter()
    try:
        indexed = [p for p in params if p.indexed]
        by_name = {p.name: _topic(writer, p, f"t[{i}]") for i, p in enumerate(indexed, 1)}
        plain = [p for p in params if not p.indexed]
        by_name |= dict(zip((p.name for p in plain), writer.sequence(list(map(shape_of, plain)), "0"), strict=True))
    except UnsupportedTypeError:
        return None
    body = [*writer.lines, "return {" + ", ".join(f"{p.name!r}: {by_name[p.name]}" for p in params) + "}"]
    scope: dict[str, Any] = {}
    # Only text of our own is executed: argument names are inserted by repr. Strings that are not UTF-8 are left to
    # eth-abi to refuse.
    lines = ["def decode(t, d, number=int.from_bytes):", "    try:", *(f"        {line}" for line in body)]
    exec("\n".join([*lines, "    except UnicodeDecodeError:", "        return None"]), scope)
    compiled: Compiled = scope["decode"]
    return compiled


def _topic(writer: _SourceWriter, param: Param, source: str) -> str:
    hashed = param.fields or param.type in ("string", "bytes") or param.type.endswith("]")
    return source if hashed else writer.value(param.type, source)
