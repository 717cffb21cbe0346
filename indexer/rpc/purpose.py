"""What requests are for: the head comes first, proofs never starve it.

The purpose of a request is that of the code that makes it, and of the tasks it starts: `with spending("attest"): ...`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, get_args

Purpose = Literal["follow", "probe", "backfill", "attest"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)  # the more urgent first

_purpose: ContextVar[Purpose] = ContextVar("purpose", default="follow")


def purpose() -> Purpose:
    """What is being asked for now."""
    return _purpose.get()


@contextlib.contextmanager
def spending(on: Purpose | None) -> Iterator[None]:
    """Requests of the body, and of tasks begun in it, are for this; None: for what they were for anyway."""
    if on is None:
        yield
        return
    token = _purpose.set(on)
    try:
        yield
    finally:
        _purpose.reset(token)
