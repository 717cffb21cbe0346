"""The tags of one endpoint's head: latest together with safe and finalized, or alone where these fail.

A node fails at a tag in many ways: it refuses it, answers null or a block that cannot be read, hands on an error of the
parent chain, limits it, hangs, or fails the whole request that contains it. None of them says anything about `latest`.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import structlog

from indexer.chain.types import Header
from indexer.errors import RpcError, TransientRpcError
from indexer.rpc import wire
from indexer.rpc.answers import header_call
from indexer.rpc.endpoint import Endpoint

TAGS = ("safe", "finalized")
TAG_WAIT_S = 2.0  # For a tag that failed before: the head waits for it.
ABSENT_S = 60.0  # Until a tag that the node does not have is tried again.
FAILING_S, MAX_FAILING_S = 5.0, 120.0  # The same for one that fails; doubled each time.
# For a number it means "not yet", for a tag "none": a node without finality gives no other answer, however often asked.
_NO_BLOCK = re.compile(r"(block|header) not (found|available)|unknown block", re.IGNORECASE)

log = structlog.get_logger()


class HeadTags:
    """Reads the tags of one endpoint. Tags that it refuses are asked for apart from `latest`, and seldom."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self._support = endpoint, endpoint.health.support
        self._suspected = False  # The last request with tags failed as a whole, for which a tag may be the cause.

    async def read(self) -> dict[str, Any]:
        """Return block objects by tag: always of `latest`, and None or nothing for a tag that failed.

        Raises RpcError if `latest` is not answered, or was asked for together with a tag and all of it failed: then the
        endpoint itself may be in trouble, another one is better, and the next call asks for `latest` alone.
        """
        together = [tag for tag in TAGS if not self._suspected and self._support.get(_name(tag)) is None]
        try:
            answers = await self.endpoint.batch([header_call(tag) for tag in ("latest", *together)])
        except RpcError as error:
            if not together:
                raise
            if not _is_absence(error):
                self._suspected = True
                raise
            answers, together = [await self.endpoint.call(*header_call("latest"))], []
        self._suspected = False
        blocks = dict(zip(("latest", *together), answers, strict=True))
        now = time.monotonic()
        apart = [tag for tag in TAGS if tag not in together and not self._support.rests(_name(tag), now)]
        return blocks | await self._apart(apart)

    async def _apart(self, tags: list[str]) -> dict[str, Any]:
        """Return block objects of tags, apart from `latest`: in one request if that is answered, else in one each."""
        if len(tags) > 1:
            try:
                async with asyncio.timeout(TAG_WAIT_S):
                    answers = await self.endpoint.batch([header_call(tag) for tag in tags])
            except (RpcError, TimeoutError):
                pass  # Which of them failed shows when each is asked for alone.
            else:
                for tag in tags:
                    self._restored(tag)
                return dict(zip(tags, answers, strict=True))
        return {tag: await self._ask(tag) for tag in tags}

    def _restored(self, tag: str) -> None:
        if self._support.answered(_name(tag)):
            log.info("tag_served_again", endpoint=self.endpoint.name, tag=tag)

    async def _ask(self, tag: str) -> Any:
        try:
            async with asyncio.timeout(TAG_WAIT_S):
                answer = await self.endpoint.call(*header_call(tag))
        except RpcError as error:
            self._failed(tag, error.words, transient=not _is_absence(error))
            return None
        except TimeoutError:
            self._failed(tag, f"no answer within {TAG_WAIT_S:g} seconds", transient=True)
            return None
        self._restored(tag)
        return answer

    def _failed(self, tag: str, why: str, *, transient: bool) -> None:
        pause, longest = (FAILING_S, MAX_FAILING_S) if transient else (ABSENT_S, ABSENT_S)
        now = time.monotonic()
        if self._support.refused(_name(tag), now, why, pause=pause, longest=longest, transient=transient):
            log.warning("tag_refused", endpoint=self.endpoint.name, tag=tag, reason=why)

    def parsed(self, tag: str, block: Any) -> Header | None:
        """Return the header of a tag; None if there is none, or one that cannot be read, which is a tag that fails."""
        if block is None:
            return None
        try:
            return wire.header(block)
        except RpcError as error:
            self._failed(tag, error.message, transient=True)
            return None

    def failing(self, tag: str) -> str:
        """Return why a tag is not known now although the endpoint may have it; "" if it has it, or has none."""
        known = self._support.get(_name(tag))
        return known.why if known is not None and known.transient else ""


def _is_absence(error: RpcError) -> bool:
    """Return whether an error about a tag says that the node has none, rather than that it fails now."""
    return not isinstance(error, TransientRpcError) or _NO_BLOCK.search(error.message) is not None


def _name(tag: str) -> str:
    return f"tag {tag}"
