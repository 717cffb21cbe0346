"""The kinds of sinks, and how the sink of a slot is made from what the slot says and what the environment holds."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from indexer.errors import ConfigError
from indexer.runtime.secrets import secret
from indexer.store.stream_slots import StreamSlot
from indexer.streams.sink import Sink, StreamContext


class SinkKind(NamedTuple):
    """A kind of sink. `extra`: what to install for it. `variable`: where its URL, which may hold a secret, is read."""

    module: str
    extra: str
    variable: str


# Kind -> its module, which has make(url, options, context).
KINDS: dict[str, SinkKind] = {}


def make_sink(slot: StreamSlot, deployment: str) -> Sink:
    """Return the sink of a slot, not opened yet.

    Raises ConfigError when the kind is unknown, its library is not installed, or its URL is not set.
    """
    options = dict(slot.sink or {})
    kind = KINDS.get(options.pop("kind", ""))
    if kind is None:
        raise ConfigError(
            f"slot {slot.name!r} has no sink that this release knows",
            f"Drop it and create it with --sink {'|'.join(KINDS)}",
        )
    url = secret(kind.variable)
    if not url:
        raise ConfigError(
            f"slot {slot.name!r}: {kind.variable} is not set", f"Set {kind.variable} or {kind.variable}_FILE"
        )
    try:
        module = importlib.import_module(kind.module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"slot {slot.name!r}: {error.name} is not installed", f"pip install 'reya-indexer[{kind.extra}]'"
        ) from error
    sink: Sink = module.make(url, options, StreamContext(deployment, slot.name, slot.level))
    return sink
