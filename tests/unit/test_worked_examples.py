"""Every figure of the examples in docs/explanation/positions-and-pnl.md, by the projections and by the oracle."""

from __future__ import annotations

import itertools
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from indexer import config
from indexer.chain.types import Log
from indexer.projections.events import Event, Row, StateKey, events_of
from indexer.projections.project import project, split_row, state_keys
from indexer.projections.write_set import StateRow
from indexer.projector.writer import Writer
from tests.support.anvil.emission import Abis, Emission
from tests.support.oracle.recompute import recompute

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "explanation" / "positions-and-pnl.md").read_text()
DEVNET = config.load("devnet")
ABIS = Abis("devnet")
MARKET, ACCOUNT, POOL, KEEPER = 1, 101, 2, 102
PNL = {"price variation PnL": "price_variation_pnl", "funding PnL": "funding_pnl", "realized PnL": "r_pnl"}
POSITION = {
    "base": "base", "session": "session", "average entry price": "average_entry_price",
    "average entry funding": "average_entry_funding_value",
}  # fmt: skip
OTHER_SIDE = ("keeper", "maker")
Line = dict[str, str]


def _examples() -> dict[str, list[Line]]:
    """The lines of each example's table, by its title; empty input cells filled from the line above."""
    found: dict[str, list[Line]] = {}
    for section in DOCUMENT.split("\n### ")[1:]:
        title, _, text = section.partition("\n")
        table = [[c.strip() for c in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
        names, lines = table[0], [dict(zip(table[0], row, strict=True)) for row in table[2:]]
        for above, line in itertools.pairwise(lines):
            for name in names[:6]:
                line[name] = line[name] or above[name]
        found[title] = lines
    return found


EXAMPLES = _examples()


def wad(cell: str) -> int:
    scaled = Decimal(cell) * 10**18
    assert scaled == int(scaled)
    return int(scaled)


def figure(name: str, cell: str) -> int | None:
    return None if cell == "-" else int(cell) if name == "session" else wad(cell)


def emitted(line: Line) -> list[Emission]:
    """The logs of a line's transaction: the market as it is, and what was executed."""
    rng = random.Random(1)
    trackers = {
        f"{side}Trackers": {
            "fundingValue": wad(line[f"funding {side}"]), "adlUnwindPrice": 0,
            "baseMultiplier": wad(line["multiplier"]) if side == "long" else 10**18,
        }
        for side in ("long", "short")
    }  # fmt: skip
    told = {"marketData": trackers | {"id": MARKET, "poolAccountId": POOL}, "blockTimestamp": 5}
    logs = [ABIS.make(rng, "passive_perp", "MarketDataUpdated", told)]
    if line["event"] == "market":
        return logs
    order = {
        "marketId": MARKET, "accountId": ACCOUNT, "orderBase": wad(line["size"]), "blockTimestamp": 5,
        "executedOrderPrice": wad(line["price"]), "referrerAccountId": 0,
    }  # fmt: skip
    if line["event"] in OTHER_SIDE:  # The account is the other side of another's order, which names it in no argument.
        size, base = wad(line["size"]), wad(line["base"])
        order |= {"accountId": KEEPER, "orderBase": -size}
        bases = ((KEEPER, size), (KEEPER, 0), (ACCOUNT, base - size), (ACCOUNT, base))
        for account, held in bases:
            position = {"base": held, "trackers": trackers["longTrackers" if held > 0 else "shortTrackers"]}
            stated = {"marketId": MARKET, "accountId": account, "blockTimestamp": 5, "positionData": position}
            logs.append(ABIS.make(rng, "passive_perp", "PositionDataUpdated", stated))
    if line["event"] in ("liquidation", "keeper"):
        won = {"accountId": order["accountId"], "success": True}
        logs.append(ABIS.make(rng, "core", "AccountExecutedLiquidationBid", won))
    if line["event"].startswith("stated"):
        stated = {"marketId": MARKET, "accountId": ACCOUNT, "blockTimestamp": 5}
        position = {"base": wad(line["event"].removeprefix("stated ")), "trackers": trackers["longTrackers"]}
        logs.append(ABIS.make(rng, "passive_perp", "PositionDataUpdated", stated | {"positionData": position}))
    return [*logs, ABIS.make(rng, "passive_perp", "PassivePerpMatchOrder", order)]


def rpc_log(emission: Emission, block: int, index: int) -> dict[str, Any]:
    return {
        "address": emission.address, "topics": ["0x" + t.hex() for t in emission.topics],
        "data": "0x" + emission.data.hex(), "blockNumber": hex(block), "blockTimestamp": hex(1000 + block),
        "transactionHash": f"0x{block:064x}", "logIndex": hex(index),
    }  # fmt: skip


class ByProjection:
    """Tables in memory, as the indexer projects them. `events`: those of the last block."""

    def __init__(self, deployment: str = "devnet") -> None:
        self.writer, self.state = Writer(config.load(deployment)), dict[StateKey, StateRow]()
        self.block = 0
        self.events: list[Event] = []

    def feed(self, emissions: list[Emission]) -> dict[str, list[Row]]:
        """What these logs append, and all positions."""
        self.block += 1
        logs = [
            Log(self.block, n, bytes.fromhex(e.address[2:]), self.block.to_bytes(32), 0, e.topics, e.data, b"\x01" * 32)
            for n, e in enumerate(emissions)
        ]
        events = self.events = events_of(self.writer.registry, logs, {self.block: 1000 + self.block})
        for key in state_keys(events):
            self.state.setdefault(key, None)
        ledger = self.writer.new_write_set(self.state, self.block)
        project(ledger, events)
        positions = [
            split_row(name, kept)[0] or {} for (name, _), kept in self.state.items() if name == "positions" and kept
        ]
        return {"positions": positions} | {table: ledger.rows(table) for table in ledger.appended}


class ByOracle:
    def __init__(self, deployment: str = "devnet") -> None:
        self.config, self.logs = ROOT / "config" / f"{deployment}.toml", list[dict[str, Any]]()

    def feed(self, emissions: list[Emission]) -> dict[str, list[Row]]:
        block = 1 + len({log["blockNumber"] for log in self.logs})
        self.logs += [rpc_log(e, block, n) for n, e in enumerate(emissions)]
        tables = recompute(self.logs, self.config)
        fresh = {t: [r for r in rows if r.get("unique_id", 0) // 100_000 == block] for t, rows in tables.items()}
        return fresh | {"positions": tables["positions"]}


@pytest.mark.parametrize("engine", [ByProjection, ByOracle])
@pytest.mark.parametrize("title", EXAMPLES)
def test_every_figure_of_the_example(title: str, engine: type[ByProjection | ByOracle]) -> None:
    made = engine()
    for number, line in enumerate(EXAMPLES[title], 1):
        tables = made.feed(emitted(line))
        (position,) = [row for row in tables["positions"] if row["account_id"] == ACCOUNT]
        meant = {name: figure(name, line[name]) for name in (*POSITION, *PNL)}
        found = {name: position[column] for name, column in POSITION.items()}
        executed = [row for row in tables.get("order_history", []) if row["account_id"] == ACCOUNT]
        executed = executed or [dict.fromkeys(PNL.values())]
        found |= {name: executed[0][column] for name, column in PNL.items()}
        assert found == meant, f"line {number}"
        assert len(tables.get("order_history", [])) == (line["event"] != "market")
        if line["event"] in ("order", "liquidation"):
            assert executed[0]["type"] == line["event"]
            assert executed[0]["average_entry_price"] == meant["average entry price"]
        assert len(tables.get("liquidation_history_details", [])) == (line["event"] in ("liquidation", "keeper"))
        named = [row.get("counterparty_account_id") for row in tables.get("orders", [])]
        assert named == [ACCOUNT] if line["event"] in OTHER_SIDE else not any(named)


def test_every_kind_of_execution_has_an_example() -> None:
    titles = " ".join(EXAMPLES).lower()
    kinds = "open extend reduce close flip funding deleveraging liquidation keeper maker"
    for word in kinds.split():
        assert word in titles
    assert sum(map(len, EXAMPLES.values())) >= 18
