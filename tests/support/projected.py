"""A recorded chain, the rows that the projections make of it, and their digests by version of the projections.

`python -m tests.support.projected --record` stores the digests of the version in force. Those of a version
are written once: databases that were projected with it hold these rows. `--chain` draws the chain anew, for which every
digest must be recorded again: only together with a new version.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import astuple, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from indexer.chain.types import LOGS_PER_BLOCK, Log
from indexer.config import Deployment, load
from indexer.db.catalog import COLUMNS
from indexer.decode.registry import Registry
from indexer.projections.events import StateKey, events_of
from indexer.projections.project import WHOLE_TABLES, project, split_row, state_keys, tables_of
from indexer.projections.row_encoder import RowEncoder
from indexer.projections.version import PROJECTIONS
from indexer.projections.write_set import StateRow, WriteSet
from tests.accounting.desk import E18, Desk, Fill, Position
from tests.accounting.histories import STEPS
from tests.support.anvil.emission import Abis, Emission
from tests.support.anvil.flows import World

DATA = Path(__file__).parents[1] / "data"
CHAIN, DIGESTS = DATA / "projections_chain.jsonl.gz", DATA / "projections.json"
STEP_BLOCKS = 40  # blocks of one ledger; what it knows of earlier ones is what it is given
FAR = 2**63 // LOGS_PER_BLOCK + 1  # a block whose logs have no number that fits a bigint
FLOOR = 20  # blocks above it keep before-images

Digests = dict[str, dict[str, str]]  # by version, by table


# -- the chain


def drawn() -> tuple[list[list[Emission]], list[list[Emission]]]:
    """Transactions of logs: every event of every contract, the flows of the exchange, and a desk that keeps books.

    Apart from them those of one more block, far above.
    """
    abis, rng = Abis("devnet"), random.Random(20)
    world = World(abis, 7)
    found = world.setup()
    for _ in range(4):
        found.append(world.open_account())
    found += [world.transaction() for _ in range(150)]
    for contract, event in sorted(abis.events):
        for variant in range(len(abis.events[contract, event])):
            found.append([world.log(contract, event, variant)])
    found += [world.ranked_liquidation() for _ in range(8)]
    found += [flow() for flow in (world.maker_orders, world.keeper_liquidation) for _ in range(4)]
    desk = Desk(abis, random.Random(11))
    found.append(desk.setup())
    for _ in range(140):
        name = rng.choice(sorted(STEPS))
        found.append(STEPS[name](desk, rng.randrange(100), rng.randrange(100)))
    return found + _rare(desk), _far_away(world, desk)


def _rare(desk: Desk) -> list[list[Emission]]:
    """What few histories have: one account on both sides, positions that auto-deleveraging takes to nothing, and
    statements of another base, or of the other side, than the executions add up to; a market without trackers."""
    found: list[list[Emission]] = []

    def told(fill: Fill) -> None:
        found.append([desk.execution(fill, 0, 1), desk.market_data(fill.market, 1)])

    told(desk.fill(1, 101, 101, E18))
    desk.positions[1, 201] = desk.positions[1, 202] = desk.positions[1, 203] = desk.positions[1, 204] = Position()
    for account in (201, 202, 203, 204):
        told(desk.fill(1, account, desk.pool, 5))
    market = desk.markets[1]
    fallen = replace(market.long, multiplier=market.long.multiplier // 100)
    desk.markets[1] = replace(market, long=fallen)
    found.append(desk.stated(1, 201, desk.position(1, 201).updated(desk.markets[1])))
    told(desk.fill(2, 205, desk.pool, 5 * E18))
    desk.markets[2] = replace(desk.markets[2], long=replace(desk.markets[2].long, multiplier=E18 // 3))
    halved = desk.position(2, 205).updated(desk.markets[2])
    found.append(desk.stated(2, 205, replace(halved, base=halved.base + 1000)))  # by more than is rounded
    bare = desk.fill(1, 202, desk.pool, 7 * E18)
    found.append([desk.market_data(1), desk.match(bare, 1)])
    found.append(desk.stated(1, 203, replace(desk.position(1, 203), base=-9 * E18)))
    wrong = desk.fill(1, 204, desk.pool, 3 * E18)
    found.append([desk.execution(replace(wrong, after=replace(wrong.after, base=-4 * E18)), 0, 0)])
    found.append([desk.match(desk.fill(1, 204, desk.pool, E18)), desk.bid(204)])
    found.append([desk.match(desk.fill(1, 203, desk.pool, -E18), 1)])
    desk.markets[9] = replace(desk.markets[1], id=9)  # of which no log tells trackers
    found += [[desk.match(desk.fill(9, 101, desk.pool, size), 1)] for size in (E18, -2 * E18, E18)]
    del desk.markets[9]
    return found


def _far_away(world: World, desk: Desk) -> list[list[Emission]]:
    """What stands in a block whose number and time no column has room for."""
    fill = desk.fill(2, 101, desk.pool, E18)
    return [
        world.open_account(),
        world.settings(),
        world.rusd_transfers(),
        [desk.execution(fill, 0, 1), desk.market_data(2, 1), *desk.stated(2, 101, fill.after)],
        [Emission("unknown", world.abis.addresses["rusd"], (b"\x08" * 32,), b"")],
    ]


def _draw() -> None:
    rng = random.Random(3)
    with CHAIN.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
        number = index = 0
        near, far = drawn()
        for n, emissions in enumerate([*near, *far]):
            if n >= len(near):
                number, index = FAR, index if number == FAR else 0
            elif n % 3 == 0:
                number, index = number + 1, 0
            transaction = rng.randbytes(32).hex()
            for e in emissions:
                line = [number, index, transaction, e.address, [t.hex() for t in e.topics], e.data.hex()]
                out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
                index += 1


def recorded() -> list[Log]:
    """The logs of the chain, in its order."""
    with gzip.open(CHAIN, "rt") as lines:
        return [
            Log(number, index, bytes.fromhex(address[2:]), bytes.fromhex(transaction), 0,
                tuple(bytes.fromhex(t) for t in topics), bytes.fromhex(data), bytes(32))
            for number, index, transaction, address, topics, data in map(json.loads, lines)
        ]  # fmt: skip


# -- its rows


def rows(deployment: Deployment, logs: list[Log]) -> dict[str, list[Any]]:
    """By table: appended rows in the order written, state rows as they are after each step, with before-images."""
    registry, lines = Registry(deployment.contracts), RowEncoder(COLUMNS)
    tokens = {t.address: (t.name, t.symbol) for t in deployment.tokens}
    rusd = next(c.address for c in deployment.contracts if c.name == "rusd")
    state: dict[StateKey, StateRow] = {}
    found: dict[str, list[Any]] = defaultdict(list)
    for part in steps(logs):
        events = events_of(registry, part, {g.block_number: 1_740_000_000 + 2 * g.block_number for g in part})
        keys = state_keys(events) | {key for key in state if key[0] in WHOLE_TABLES}
        ledger = WriteSet(lines, {key: state.get(key) for key in keys}, FLOOR, tokens, rusd, deployment.accounting)
        project(ledger, events)
        state |= ledger.state
        for table in ledger.appended:
            found[table] += ledger.rows(table)
        for name, key in sorted(ledger.changed, key=repr):
            _state_rows(found, "", name, key, ledger.state[name, key])
        for (number, (name, key)), kept in sorted(ledger.before.items(), key=repr):
            _state_rows(found, f"before {number}", name, key, kept)
        found["indexer.incident"] += [list(astuple(incident)) for incident in ledger.incidents]
    return dict(found)


def _state_rows(found: dict[str, list[Any]], when: str, name: str, key: Any, kept: StateRow) -> None:
    for table, row in zip(tables_of(name), split_row(name, kept), strict=True):
        found[table].append([when, list(key), row])


def steps(logs: list[Log]) -> Iterator[list[Log]]:
    for _, part in groupby(logs, lambda log: log.block_number // STEP_BLOCKS):
        yield list(part)


def digests() -> dict[str, str]:
    """Of the rows that today's projections make of the recorded chain, by table."""
    made = rows(load("devnet"), recorded())
    return {table: hashlib.sha256(_text(made[table]).encode()).hexdigest() for table in sorted(made)}


def _text(found: list[Any]) -> str:
    return "\n".join(json.dumps(row, sort_keys=True, default=str, ensure_ascii=False) for row in found)


# -- what is recorded


def stored() -> Digests:
    found: Digests = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
    return found


def differing(known: Digests, now: dict[str, str], version: int) -> list[str]:
    """The tables whose rows are not those recorded for the version; all of them when none are."""
    before = known.get(str(version), {})
    return sorted(table for table in before.keys() | now.keys() if before.get(table) != now.get(table))


def record(known: Digests, now: dict[str, str], version: int) -> Digests:
    """With the digests of the version. Raises ValueError when it is recorded with others already."""
    if str(version) in known and differing(known, now, version):
        raise ValueError(
            f"version {version} is recorded with other rows ({', '.join(differing(known, now, version))}):"
            " raise PROJECTIONS in indexer/projections/version.py first"
        )
    return known | {str(version): now}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.projected", description=__doc__)
    parser.add_argument("--record", action="store_true", help="store the digests of today's version")
    parser.add_argument("--chain", action="store_true", help="draw the chain anew first")
    asked = parser.parse_args()
    before = CHAIN.read_bytes() if CHAIN.exists() else None
    if asked.chain:
        _draw()
    now = digests()
    for table, digest in now.items() if not asked.record else ():
        print(digest[:16], table)
    if asked.record:
        try:
            made = record(stored(), now, PROJECTIONS)
        except ValueError as refusal:
            if before is not None:
                CHAIN.write_bytes(before)
            sys.exit(str(refusal))
        DIGESTS.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
