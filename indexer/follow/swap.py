"""A fork, from the endpoints' claims to the committed swap."""

from __future__ import annotations

import functools

from indexer.chain.finality import Final
from indexer.chain.types import Anchor
from indexer.errors import Inconsistent, IndexerError, NotFinal
from indexer.follow.fork import claim, final_upto, read_replacement
from indexer.follow.machine import Claim, Finding
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store import staging
from indexer.store.database import Connection
from indexer.store.journal import Reorg
from indexer.store.standing import Standing


async def claims(
    pool: Pool, conn: Connection, standing: Standing, final: Final, *, everyone: bool
) -> tuple[Claim, ...]:  # fmt: skip
    """What one endpoint, or every one, says of the stored chain. Raises RpcError when none answers."""

    async def ask(reader: Reader) -> Claim:
        return await claim(reader, conn, standing, final)

    if not everyone:
        return (await pool.run(ask),)
    answers = await pool.each(ask)
    return tuple(Claim("", Finding.UNCLEAR, detail=a.message) if isinstance(a, IndexerError) else a for a in answers)


async def stage(
    pool: Pool, conn: Connection, standing: Standing, found: Claim, cause: str, final: Final, token: int
) -> tuple[Reorg, int]:  # fmt: skip
    """Reads the replacement into staging from the endpoint that claimed it, else from another that claims a fork; and
    up to which block the chain that it ends is final, by the word of who served it.

    Raises RpcError when no endpoint serves it in a form that can be believed, LeaseLost.
    """
    tip = standing.tip
    assert tip is not None

    async def from_one(reader: Reader) -> tuple[Reorg, int]:
        said = found if reader.name == found.endpoint else await claim(reader, conn, standing)
        if said.finding is not Finding.FORK or said.fork is None or said.head is None:
            raise Inconsistent(said.detail or f"serves no such fork ({said.finding.value})", reader.name)
        last = min(said.head.number, max(tip.number, said.fork.number + 1))
        reorg = await stage_from(reader, conn, standing, said.fork, last, cause, token)
        if await staging.starts_as_stored(conn, said.fork.number + 1):
            # The chain came back while we read: a swap would archive rows that never were orphaned.
            raise Inconsistent("serves the stored chain again", reader.name)
        upto = await final_upto(reader, reorg.new_tip, final)
        if upto is None:
            raise Inconsistent(f"block {last} changed after the replacement was read", reader.name)
        if final.hash and upto < 0 and said.fork.number < final.number:
            # It denies a block that another endpoint called final: its branch is the orphaned one.
            raise NotFinal(f"its fork from block {said.fork.number} lacks the final block {final.number}", reader.name)
        return reorg, upto

    return await pool.run(from_one, prefer=found.endpoint)


async def stage_from(
    reader: Reader, conn: Connection, standing: Standing, fork: Anchor, last: int, cause: str, token: int
) -> Reorg:  # fmt: skip
    """Blocks fork + 1 .. last of one endpoint, staged, for the contracts that are covered above the fork point."""
    assert standing.tip is not None
    addresses = standing.covered_above(fork.number)
    await staging.clear(conn, token)
    keep = functools.partial(staging.add, conn, token=token)
    new_tip = await read_replacement(reader, fork, last, addresses, keep)
    return Reorg(fork, standing.tip, new_tip, addresses, reader.name, cause)
