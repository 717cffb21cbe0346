"""A transport without sockets: the nodes of the tests answer in this process what they would answer over HTTP."""

from __future__ import annotations

import asyncio

from indexer.errors import TransientRpcError
from indexer.rpc.answers import HttpAnswer
from indexer.rpc.transport import TransportFactory
from tests.support.simchain.node import SimNode
from tests.support.stubnode import StubNode


class InProcess:
    """Asks one node. It has one connection, for good."""

    def __init__(self, node: SimNode | StubNode, name: str) -> None:
        self.node, self.name, self.url, self.connections = node, name, node.url, 1

    async def post(self, body: bytes) -> HttpAnswer:
        await asyncio.sleep(0)  # Whoever waits for an answer lets others work.
        response = await self.node.respond(body)
        if response is None:
            raise TransientRpcError("ServerDisconnected: Server disconnected", self.name)
        assert isinstance(response.body, bytes)
        return HttpAnswer(response.body, response.status, response.headers)

    async def close(self) -> None:
        pass


def in_process(*nodes: SimNode | StubNode) -> TransportFactory:
    """For `Pool` and `Endpoint`: whoever asks for a node's URL asks the node."""
    return lambda url, name, _: InProcess(next(node for node in nodes if node.url == url), name)
