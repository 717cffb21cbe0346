"""Periodic probes of every endpoint, including unused ones: chain id, head, and a block that is final here.

A standby that lags, lost its history, serves another chain or denies a stored final block is thus known before it is
needed, and one that was set aside for such a reason returns when it is well.
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

CHECK_INTERVAL_S = 15.0


class Probe(NamedTuple):
    """One endpoint's answer to a probe.

    `ref_header`: its block at the number of the stored final block; None if it has none.
    """

    reader: Reader
    chain_id: int
    head: Header
    ref_header: Header | None


class HealthChecker:
    """Probes all endpoints of a pool. `final_ref` returns a final block as it is stored, None while there is none."""

    def __init__(self, pool: Pool, final_ref: Callable[[], BlockRef | None]) -> None:
        self.pool, self._final_ref = pool, final_ref

    async def check_all(self) -> None:
        """Probe all endpoints once. Never raises an endpoint's error."""
        ref = self._final_ref()
        with request_purpose("probe"):
            probes = await asyncio.gather(*(self._probe(reader, ref) for reader in self.pool.readers))
        same_chain = [probe for probe in probes if probe is not None and self._is_same_chain(probe)]
        for probe in (*same_chain, *same_chain):  # Twice, so that each is compared with the heads of all others.
            self.pool.observe_head(probe.reader.name, probe.head)
        if ref is not None:
            self._compare(ref, [p for p in same_chain if p.head.number >= ref.number])

    async def _probe(self, reader: Reader, ref: BlockRef | None) -> Probe | None:
        try:
            return Probe(reader, *await reader.probe(None if ref is None else ref.number))
        except RpcError as error:
            self.pool.failed(reader, error)
            return None

    def _is_same_chain(self, probe: Probe) -> bool:
        self.pool.record_chain_id(probe.reader, probe.chain_id)
        if probe.chain_id != self.pool.chain_id:
            detail = f"serves chain {probe.chain_id}, the deployment is chain {self.pool.chain_id}"
            self.pool.set_aside(probe.reader.name, detail, "wrong chain")
        return probe.chain_id == self.pool.chain_id

    def _compare(self, ref: BlockRef, probes: list[Probe]) -> None:
        """Set aside an endpoint that denies a stored final block while another endpoint confirms it.

        If all deny it, the follower must judge: it may be a reorg below finalized, and the follower asks every endpoint
        itself.
        """
        confirmed = any(p.ref_header is not None and p.ref_header.hash == ref.hash for p in probes)
        for probe in probes:
            name = probe.reader.name
            if probe.ref_header is None:
                detail = f"does not serve block {ref.number}, {probe.head.number - ref.number} below its head"
                self.pool.set_aside(name, detail, "pruned")
            elif probe.ref_header.hash == ref.hash:
                continue
            elif confirmed:
                detail = f"its block {ref.number} is not the final one that is stored and that another endpoint serves"
                self.pool.set_aside(name, detail, "contradicting")
