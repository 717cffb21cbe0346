"""How a command says what it did: one JSON object for programs, or a text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol

import click

from indexer.chain.ranges import BlockRange

OMIT_NONE: Mapping[str, Any] = {"omit_none": True}  # Metadata of a field that JSON leaves out instead of null.


class Report(Protocol):
    """What a command did: a dataclass whose fields are the keys of the JSON object, in this order."""

    def summary(self) -> str:
        """Return the text for people."""
        ...


def print_report(report: Report, as_json: bool) -> None:
    """Print a report to stdout."""
    click.echo(report_json(report) if as_json else report.summary())


def report_json(report: object) -> str:
    """Encode a dataclass or NamedTuple of reports as one line of JSON. A BlockRange is [first, last]."""
    return json.dumps(_plain(report))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        parts = ((field, getattr(value, field.name)) for field in fields(value))
        return {f.name: _plain(part) for f, part in parts if part is not None or "omit_none" not in f.metadata}
    if isinstance(value, BlockRange):
        return list(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        as_dict = getattr(value, "_asdict", None)
        return [_plain(part) for part in value] if as_dict is None else _plain(as_dict())
    return value
