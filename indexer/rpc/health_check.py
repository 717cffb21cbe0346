"""Looks at every endpoint now and then, those too that nobody asks: chain id, head, and a block that is final here.

So a standby that lags, lost its history, serves another chain or denies a stored final block is known before it is
needed, and one that was set aside for it comes back when it is well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from indexer.chain.types import BlockRef, Header
from indexer.errors import RpcError
from indexer.rpc.pool import Pool
from indexer.rpc.rate_limit import request_purpose
from indexer.rpc.reader import Reader

CHECK_INTERVAL_S = 15.0  # seconds


class Probe(NamedTuple):
    """What one endpoint said. `kept`: its block at the anchor's number."""

    reader: Reader
    chain_id: int
    head: Header
    has_final_ref: Header | None


class HealthChecker:
    """`anchor`: a final block as it is stored, None while there is none."""

    def __init__(self, pool: Pool, anchor: Callable[[], BlockRef | None]) -> None:
        self.pool, self._final_ref = pool, anchor

    async def check_all(self) -> None:
        """One round over all endpoints. Never raises an endpoint's error."""
        anchor = self._final_ref()
        with request_purpose("probe"):
            found = await asyncio.gather(*(self._probe(reader, anchor) for reader in self.pool.readers))
        ours = [probe for probe in found if probe is not None and self._serves_our_chain(probe)]
        for probe in (*ours, *ours):  # twice: each beside what all the others showed
            self.pool.observe_head(probe.reader.name, probe.head)
        if anchor is not None:
            self._compare(anchor, [p for p in ours if p.head.number >= anchor.number])

    async def _probe(self, reader: Reader, anchor: BlockRef | None) -> Probe | None:
        try:
            return Probe(reader, *await reader.probe(None if anchor is None else anchor.number))
        except RpcError as error:
            self.pool.failed(reader, error)
            return None

    def _serves_our_chain(self, probe: Probe) -> bool:
        self.pool.record_chain_id(probe.reader, probe.chain_id)
        if probe.chain_id != self.pool.chain_id:
            told = f"serves chain {probe.chain_id}, the deployment is chain {self.pool.chain_id}"
            self.pool.set_aside(probe.reader.name, told, "wrong chain")
        return probe.chain_id == self.pool.chain_id

    def _compare(self, anchor: BlockRef, probes: list[Probe]) -> None:
        """Who denies a stored final block is set aside while another confirms it. When all deny it, the follower must
        judge: that may be a reorg below finalized, and it asks every endpoint itself."""
        confirmed = any(p.has_final_ref is not None and p.has_final_ref.hash == anchor.hash for p in probes)
        for probe in probes:
            name = probe.reader.name
            if probe.has_final_ref is None:
                told = f"does not serve block {anchor.number}, {probe.head.number - anchor.number} below its head"
                self.pool.set_aside(name, told, "pruned")
            elif probe.has_final_ref.hash == anchor.hash:
                continue
            elif confirmed:
                told = f"its block {anchor.number} is not the final one that is stored and that another endpoint serves"
                self.pool.set_aside(name, told, "contradicting")
