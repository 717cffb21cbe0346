"""Errors as nodes put them."""

from __future__ import annotations

from typing import Any, Literal

Provider = Literal["reya", "geth", "alchemy", "nitro"]


class Refusal(Exception):
    """An error object instead of a result."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


# What nodes say to a range over their limits: code and text, for blocks and for logs.
BLOCKS: dict[Provider, tuple[int, str]] = {
    "reya": (-32602, "block range too large, maximum {cap}"),
    "geth": (-32000, "exceed maximum block range: {cap}"),
    "alchemy": (
        -32600,
        "You can make eth_getLogs requests with up to a {cap} block range. Based on your parameters, this block range "
        "should work: [{first:#x}, {fits:#x}]",
    ),
    "nitro": (-32000, "too many blocks: {span} > {cap}"),
}
LOGS: dict[Provider, tuple[int, str]] = {
    "reya": (-32005, "query returned more than {cap} results"),
    "geth": (-32005, "query returned more than {cap} results. Try with this block range [{first:#x}, {fits:#x}]."),
    "alchemy": (
        -32602,
        "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and no limit on the "
        "response size, or you can request any block range with a cap of {cap} logs in the response. Based on your "
        "parameters and the response size limit, this block range should work: [{first:#x}, {fits:#x}]",
    ),
    "nitro": (-32000, "logs matched by query exceeds limit of {cap}"),
}


def refuse(messages: dict[Provider, tuple[int, str]], provider: Provider, **numbers: int) -> None:
    """Raises Refusal."""
    code, text = messages[provider]
    raise Refusal(code, text.format(**numbers))
