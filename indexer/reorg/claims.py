"""The fork point on one endpoint, and the replacement read from it into staging before anything is deleted (rule 6)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from indexer.chain.finality import NOTHING, Final
from indexer.chain.forks import Claim, Finding, ForkSearch, Outcome
from indexer.chain.ranges import missing
from indexer.chain.types import Anchor
from indexer.db.connection import Connection
from indexer.errors import HashConflict, Inconsistent, IndexerError, Missing, NotFinal, RpcError
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store.index_state import Standing, anchors_below, anchors_between


async def claim(reader: Reader, conn: Connection, standing: Standing, final: Final = NOTHING) -> Claim:
    """What the reader's chain is to the stored one, by hash; its own head bounds the search. Never raises RpcError."""
    try:
        found = await _claim(reader, conn, standing)
    except RpcError as error:
        return Claim(reader.name, Finding.UNCLEAR, detail=error.message)
    if found.finding is Finding.DEEP and found.head is not None and final.hash and found.head.number < final.number:
        detail = f"{reader.name} is on another branch at block {found.head.number}, below what is final"
        return replace(found, behind=True, detail=detail)
    return found


async def _claim(reader: Reader, conn: Connection, standing: Standing) -> Claim:
    latest = (await reader.heads()).latest
    head, tip, floor = Anchor(latest.number, latest.hash, latest.timestamp), standing.tip, standing.floor
    assert tip is not None
    start = min(tip.number, head.number)
    # Never below the origin: a fork point there would pull in blocks that nobody asked for.
    anchors = await anchors_between(conn, max(floor, standing.binding.origin), start)
    if start < floor or not anchors:
        detail = f"{reader.name} is at block {head.number}, below what is final here"
        return Claim(reader.name, Finding.LAGGING, None, head, detail)
    fork = await highest_common(reader, anchors, standing)
    if fork is None:
        return await _below(reader, standing, head, anchors[0])
    finding = Finding.SAME if fork.number in (tip.number, head.number) else Finding.FORK
    detail = f"{reader.name} serves the stored chain up to block {fork.number}" if finding is Finding.SAME else ""
    return Claim(reader.name, finding, fork, head, detail)


async def highest_common(reader: Reader, anchors: Sequence[Anchor], standing: Standing) -> Anchor | None:
    """The highest of the anchors, ascending, up to which all are on the reader's chain. Raises Inconsistent."""
    fork = None
    for part in _chained(anchors, standing):
        found = await _search(reader, part)
        fork = found or fork
        if found != part[-1]:
            break
    return fork


async def final_upto(reader: Reader, block: Anchor, final: Final) -> int | None:
    """Up to which block the chain that ends on `block` is final, as one answer of the reader shows; -1 where it lacks
    the final block, None when `block` is not on its chain. Raises Missing for a block that it does not have."""
    found, *witness = await reader.found([block.number, *final.witness])
    if found is None:
        raise Missing(f"block {block.number} is missing", reader.name)
    return final.upto(next(iter(witness), None)) if found.hash == block.hash else None


async def confirm_stored(pool: Pool, conn: Connection, standing: Standing, finalized: int, final: Final) -> None:
    """Blocks that were stored before they were final join the final block, or bulk work would project orphans for good.

    What is below the highest of them joins it by its seams. Raises HashConflict, NotFinal and other RpcErrors.
    """
    highest = next(iter(await anchors_below(conn, finalized + 1, 1)), None)
    if highest is None or highest.number <= standing.floor:
        return

    async def ask(reader: Reader) -> bool:
        upto = await final_upto(reader, highest, final)
        if upto is not None and upto < highest.number:
            raise NotFinal(f"block {highest.number} does not join the final block {final.number}", reader.name)
        return upto is not None

    if not await pool.run(ask):
        raise HashConflict(highest.number)


def _chained(anchors: Sequence[Anchor], standing: Standing) -> Iterator[list[Anchor]]:
    """The anchors, ascending, cut where blocks between them are not ingested: another process may have ingested final
    blocks above a stored tip that was reorged away, so that across a gap a common block says nothing of lower ones."""
    spans = [span for spans in standing.coverage.values() for span in spans]
    gaps = missing(spans, anchors[0].number + 1, anchors[-1].number)
    cuts = [edge for gap in gaps for edge in (gap.first, gap.last + 1)]
    for _, part in groupby(anchors, lambda anchor: bisect_right(cuts, anchor.number)):
        yield list(part)


async def _search(reader: Reader, anchors: Sequence[Anchor]) -> Anchor | None:
    search = ForkSearch(anchors)
    while wanted := search.ask():
        search.tell({h.number: h.hash for h in await reader.headers(wanted)})
    if search.outcome is Outcome.INCONCLUSIVE:
        raise Inconsistent("its blocks changed during the fork search", reader.name)
    return None if search.outcome is Outcome.BELOW_RETAINED else search.fork


async def _below(reader: Reader, standing: Standing, head: Anchor, lowest: Anchor) -> Claim:
    """No stored block is common: too deep, unless nothing final is stored, when the block before the first is it."""
    if standing.floor < lowest.number and lowest.number > 0 and standing.binding.number < lowest.number:
        before = await reader.header(lowest.number - 1)
        if before is not None:
            return Claim(reader.name, Finding.FORK, Anchor(before.number, before.hash, before.timestamp), head)
    return Claim(reader.name, Finding.DEEP, None, head)


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
