"""Provenance: which endpoint served each range of stored logs, and which endpoints were proven wrong.

Only read when logs turn out to be wrong, never while ingesting or projecting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from indexer.chain.batch import ServedRange
from indexer.chain.log_set import LogFault
from indexer.chain.types import Log
from indexer.db.connection import Connection
from indexer.store import coverage
from indexer.store.incidents import record


async def record_served(conn: Connection, source: ServedRange, contracts: Sequence[int], *, merge: bool = True) -> None:
    """Record who served a range, in the transaction that writes its logs.

    Args:
        conn: connection, inside the caller's transaction.
        source: range and the endpoint that served it.
        contracts: contract ids, ascending.
        merge: extend the row that ends just before the range, so that a run of blocks has one row. False for blocks
            that were read again between older ones: their row must be newer than the rows around it.
    """
    await conn.execute(
        "WITH grown AS (UPDATE indexer.served SET last_block = $4 WHERE last_block = $3 - 1 AND endpoint = $1"
        " AND contracts = $2 AND $5 RETURNING 1)"
        " INSERT INTO indexer.served (endpoint, contracts, first_block, last_block)"
        " SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT FROM grown)",
        source.endpoint,
        list(contracts),
        source.first,
        source.last,
        merge,
    )


async def truncate_above(conn: Connection, number: int) -> None:
    """Remove the provenance of every block above `number`, for a rollback."""
    await conn.execute("DELETE FROM indexer.served WHERE last_block > $1 AND first_block > $1", number)
    await conn.execute("UPDATE indexer.served SET last_block = $1 WHERE last_block > $1", number)


async def serving_endpoints(conn: Connection, contracts: Sequence[int], first: int, last: int) -> list[ServedRange]:
    """Return who served blocks first..last, oldest record first; where two overlap, the later one counts.

    Args:
        conn: connection.
        contracts: contract ids; ranges of any of them are returned.
        first: first block; ranges are clipped to it.
        last: last block, included; ranges are clipped to it.
    """
    rows = await conn.fetch(
        "SELECT GREATEST(first_block, $2), LEAST(last_block, $3), endpoint FROM indexer.served"
        " WHERE last_block >= $2 AND first_block <= $3 AND contracts && $1::int[] ORDER BY id",
        list(contracts),
        first,
        last,
    )
    return [ServedRange(*row) for row in rows]


class EndpointFault(NamedTuple):
    """A proof that `endpoint` was wrong about a log of a block, in the way that `what` says.

    The block's header and the data that `proven_by` served are the proof. Role "served": the stored logs came from the
    endpoint; "asked": it gave the wrong answer when the stored logs were compared with its own.
    """

    endpoint: str
    role: Literal["served", "asked"]
    block: int
    log_index: int | None
    what: str
    proven_by: str

    @property
    def reason(self) -> str:
        """Why the endpoint is set aside."""
        return f"{self.what} in block {self.block}"


async def faults_of_servers(
    conn: Connection, wrong: Iterable[LogFault], logs: Iterable[Log], prover_by_block: Mapping[int, str]
) -> list[EndpointFault]:  # fmt: skip
    """Return the fault of the endpoint that served each wrong log, "unknown" where no record says who did.

    Args:
        conn: connection.
        wrong: the wrong stored logs.
        logs: the stored logs and the true ones.
        prover_by_block: who proved each of their blocks.
    """
    faults, address_of = [], {g.identity: "0x" + g.address.hex() for g in logs}
    contracts = dict[str, list[int]]()
    for block, index, what in wrong:
        # One block's logs may have come from several endpoints, those of a contract from one.
        if (address := address_of[block, index]) not in contracts:
            contracts[address] = await coverage.contract_ids(conn, [address])
        sources = await serving_endpoints(conn, contracts[address], block, block)
        endpoint = sources[-1].endpoint if sources else "unknown"
        faults.append(EndpointFault(endpoint, "served", block, index, what, prover_by_block[block]))
    return faults


async def record_faults(conn: Connection, blames: Sequence[EndpointFault], reorg: int | None = None) -> None:
    """Insert faults, and open one incident for each endpoint. `reorg`: the id of the heal in the reorg journal."""
    if not blames:
        return
    await conn.executemany(
        "INSERT INTO indexer.blame (endpoint, role, block_number, log_index, what, proven_by, reorg_id)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [(*blame, reorg) for blame in blames],
    )
    by_endpoint: dict[str, list[EndpointFault]] = defaultdict(list)
    for blame in blames:
        by_endpoint[blame.endpoint].append(blame)
    await record(
        conn,
        [
            {
                "kind": "endpoint_wrong", "subject": endpoint, "count": len(faults), "first_block": faults[0].block,
                "last_block": faults[-1].block,
                "detail": f"{faults[0].what} in block {faults[0].block}; indexer.blame has all",
            }
            for endpoint, faults in by_endpoint.items()
        ],
    )  # fmt: skip


async def fault_counts(conn: Connection) -> dict[str, int]:
    """Count faults by endpoint, the highest count first."""
    rows = await conn.fetch("SELECT endpoint, count(*) FROM indexer.blame GROUP BY 1 ORDER BY 2 DESC, 1")
    return {row[0]: row[1] for row in rows}
