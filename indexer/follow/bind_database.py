"""The database's binding to one chain: checked at each start, made when the database is empty."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from indexer.chain.finality import HeadView
from indexer.chain.types import BlockRef, Header
from indexer.config import Deployment
from indexer.db.connection import Connection
from indexer.errors import ConfigError, EndpointUnreachableError, NotFinalError, WrongDeploymentError
from indexer.rpc.pool import Pool
from indexer.rpc.reader import Reader
from indexer.store.index_state import DeploymentBinding, bind, binding, check_binding, lower_origin

log = structlog.get_logger()


async def check_or_bind(
    conn: Connection, deployment: Deployment, pool: Pool, read_heads: Callable[[], Awaitable[HeadView]],
    first: int | None,
) -> None:  # fmt: skip
    """Check the binding against configuration and chain, or bind an empty database.

    Args:
        conn: Connection.
        deployment: Chain and contracts.
        pool: The endpoints.
        read_heads: Reads the head.
        first: First block that is to be ingested; None for the deployment's start block.

    Raises:
        WrongDeploymentError: the database belongs to another deployment or chain.
        ConfigError: `first` is above the head.
    """
    bound = await binding(conn)
    if bound is not None:
        check_binding(bound, deployment.name, deployment.chain_id)
        await _check_bound_block(conn, pool, bound)
    view = await read_heads()
    if first is not None and first > view.heads.latest.number:
        raise ConfigError(
            f"--from-block {first} is above the head {view.heads.latest.number}", "Use a lower block number"
        )
    if bound is None:
        block = await _choose_binding_block(pool, view, deployment.finality_depth)
        number = block.number
        origin = deployment.start_block if first is None else first
        bound = await bind(conn, DeploymentBinding(deployment.name, deployment.chain_id, number, block.hash, origin))
        log.info("bound", chain=bound.name, chain_id=bound.chain_id, block=number, origin=origin)
    if first is not None and first < bound.origin:
        await lower_origin(conn, first)
        log.info("origin_lowered", origin=first, before=bound.origin)


async def _choose_binding_block(pool: Pool, view: HeadView, finality_depth: int) -> BlockRef:
    """Return a final block to bind an empty database to.

    A node whose finalized tag is its head proves nothing yet, and a reorg must not orphan the bound block: such a node
    gives a block deep below its head, unless it has only the newest ones.
    """
    latest, final = view.heads.latest.number, max(view.finality.finalized, 0)
    deep = max(latest - finality_depth, 0)

    async def ask(reader: Reader, number: int) -> Header | None:
        header, *witness = await reader.found([number, *view.final.witness])
        if header is not None and witness and view.final.final_up_to(witness[0]) < number:
            raise NotFinalError(
                f"its block {number} does not connect to the final block {view.final.number}", reader.name
            )
        return header

    known = view.final
    if known.hash and known.number < latest:
        return BlockRef(known.number, known.hash, 0)
    for number in (final,) if 0 <= view.finality.finalized < latest else (deep, final):
        header = await pool.with_failover(partial(ask, number=number))
        if header is not None:
            return header.ref()
    raise EndpointUnreachableError(f"{view.endpoint} has no block {final}", "Use a node that serves history")


async def _check_bound_block(conn: Connection, pool: Pool, bound: DeploymentBinding) -> None:
    header = await pool.with_failover(lambda reader: reader.header(bound.number))
    if header is None:
        log.warning("binding_unchecked", block=bound.number, reason="no endpoint serves the block")
    elif header.hash != bound.hash and not await _shares_history(conn, pool):
        raise WrongDeploymentError(
            f"this database follows a chain whose block {bound.number} is 0x{bound.hash.hex()}, but the endpoint's"
            f" is 0x{header.hash.hex()}",
            "Same chain id, different chain: check the endpoint, or set DATABASE_URL to another database",
        )


async def _shares_history(conn: Connection, pool: Pool) -> bool:
    """Return whether the lowest stored block is on the chain.

    Then it is this chain, deeply forked, and the follower halts.
    """
    lowest = await conn.fetchrow("SELECT number, hash FROM indexer.block ORDER BY number LIMIT 1")
    if lowest is None:
        return False
    header = await pool.with_failover(partial(Reader.header, number=lowest["number"]))
    return header is not None and header.hash == lowest["hash"]
