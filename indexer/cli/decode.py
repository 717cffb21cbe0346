"""`reya-indexer decode`: decode raw logs to events, without a database."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import IO, Any

import click
import orjson

from indexer import config
from indexer.cli.options import chain_option
from indexer.decode.registry import Registry
from indexer.errors import DecodeMismatchError, UnreadableInputError

_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*")


@click.command(
    "decode",
    epilog="\b\nExamples:\n"
    "  reya-indexer decode --chain cronos --file logs.jsonl\n"
    "  cast logs --json ... | jq -c '.[]' | reya-indexer decode --file - --any-address",
)
@chain_option
@click.option(
    "--file", "source", type=click.File("rb"), required=True, help="File of JSON lines, one log each; - for stdin."
)
@click.option(
    "--any-address", is_flag=True, help="Find decoders by topic0 and number of topics only, ignoring the address."
)
def decode_command(chain: str, source: IO[bytes], any_address: bool) -> None:
    """Decode raw logs to JSON lines, one for each log, in order.

    Input: logs in JSON-RPC form, or only address, topics, and data. Output: {address, topic0, event, signature, args},
    with integers as decimal text, addresses in lowercase, bytes as 0x hex, and tuples as objects. A log that cannot be
    decoded has event null and a reason. Exits with 0 if every line was read as a log, 20 at the first line that is not
    one.
    """
    registry = Registry(config.load(chain).contracts)
    if any_address:
        registry.with_shipped_abis()
    out = sys.stdout.buffer
    for address, topics, data in _read(source):
        out.write(orjson.dumps(decode_log(registry, address, topics, data, any_address)) + b"\n")
    out.flush()


def decode_log(registry: Registry, address: str, topics: list[bytes], data: bytes, any_address: bool) -> dict[str, Any]:
    """Return one log as the JSON-ready object that the command's help describes.

    Args:
        registry: The decoders.
        address: Address of the contract (lower-case 0x hex).
        topics: The topics (32 bytes each).
        data: The data of the log.
        any_address: Whether to find the decoder by topic0 and number of topics alone.
    """
    line: dict[str, Any] = {"address": address, "topic0": "0x" + topics[0].hex() if topics else None}
    try:
        event, args = registry.decode_by_shape(topics, data) if any_address else registry.decode(address, topics, data)
    except DecodeMismatchError as mismatch:
        return line | {"event": None, "signature": None, "args": None, "reason": str(mismatch)}
    return line | {"event": event.name, "signature": event.signature, "args": printable(args)}


def printable(value: Any) -> Any:
    """Return a JSON-ready value: integers as decimal text (JSON numbers lose digits beyond 2^53), bytes as 0x hex."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {k: printable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [printable(v) for v in value]
    return value


def _read(source: IO[bytes]) -> Iterator[tuple[str, list[bytes], bytes]]:
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            log = orjson.loads(line)
            address, topics, data = log["address"], log["topics"], log["data"]
            if not isinstance(topics, list):
                raise TypeError("topics is not a list")
            words = [_bytes(t, "topics", 32) for t in topics]
            yield "0x" + _bytes(address, "address", 20).hex(), words, _bytes(data, "data")
        except KeyError as error:
            raise _unreadable(source, number, f"missing key {error}") from error
        except (ValueError, TypeError) as error:
            raise _unreadable(source, number, str(error) or "not a JSON object") from error


def _unreadable(source: IO[bytes], number: int, problem: str) -> UnreadableInputError:
    name = getattr(source, "name", "input")
    remedy = "Each line must be one JSON object with address, topics (a list) and data, as 0x hex"
    return UnreadableInputError(f"{name}, line {number}: {problem}", remedy)


def _bytes(text: object, key: str, size: int | None = None) -> bytes:
    if not isinstance(text, str) or not _HEX.fullmatch(text) or (size is not None and len(text) != 2 + 2 * size):
        raise ValueError(f"{key} is not 0x hex{f' of {size} bytes' if size else ''}")
    return bytes.fromhex(text[2:])
