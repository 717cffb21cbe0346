"""Positions and what executions realise, one rule after the other. All division is of integers.

A position's row is everything that is remembered of it; what is not known is None.
"""

from __future__ import annotations

from typing import Any

from tests.support.oracle.base import Log, Row
from tests.support.oracle.markets import Markets

SINGLE, PAIR, V3 = "PassivePerpMatchOrder", "PassivePerpOrderAndPositionUpdate", "PassivePerpExecutionV3"
UNKNOWN: Row = {"price_variation_pnl": None, "funding_pnl": None, "r_pnl": None}
FLAT: Row = {"average_entry_price": None, "average_entry_funding_value": None}
FORGOTTEN: Row = FLAT | {"snapshot": None}
CHAIN = ("realized_pnl", "last_price", "last_price_timestamp", "funding_value", "base_multiplier", "adl_unwind_price")
TRACKERS = {
    "funding_value": "fundingValue", "base_multiplier": "baseMultiplier", "adl_unwind_price": "adlUnwindPrice",
}  # fmt: skip
RAW = {
    "last_price_timestamp": "position_data_last_price_data_timestamp",
    "average_entry_price": "average_entry_price_off_chain_tracker",
    "average_entry_funding_value": "funding_value_off_chain_tracker",
}


def towards_zero(product: int, by: int) -> int:
    whole = abs(product) // abs(by)
    return -whole if (product < 0) is not (by < 0) else whole


def sign(n: int) -> int:
    return -1 if n < 0 else 1 if n > 0 else 0


def rounding(base: int) -> int:
    return abs(base) // 10**18 + 1


def mean(old: int | None, weight: int, new: int | None, added: int) -> int | None:
    if old is None or new is None:
        return None
    return (abs(weight) * old + abs(added) * new) // (abs(weight) + abs(added))


def balances(order: Log, run: list[Log]) -> bool:
    """Whether what two accounts were stated to hold, before and after, is this order of the one against the other."""
    a, (mine, mine_then, theirs, theirs_then) = order.args, [g.args for g in run]
    us, them = (a["marketId"], a["accountId"]), (a["marketId"], theirs["accountId"])
    who = [(g["marketId"], g["accountId"]) for g in (mine, mine_then, theirs, theirs_then)]
    bought = mine_then["positionData"]["base"] - mine["positionData"]["base"]
    sold = theirs["positionData"]["base"] - theirs_then["positionData"]["base"]
    return who == [us, us, them, them] and us != them and them[1] != 0 and bought == sold == a["orderBase"] != 0


def chain_fields(p: Row) -> Row:
    """A stated position in the names of the columns."""
    return {
        "base": p["base"],
        "realized_pnl": p["realizedPnL"],
        "last_price": p["lastPriceData"]["price"],
        "last_price_timestamp": p["lastPriceData"]["timestamp"],
        "funding_value": p["trackers"]["fundingValue"],
        "base_multiplier": p["trackers"]["baseMultiplier"],
        "adl_unwind_price": p["trackers"]["adlUnwindPrice"],
    }


class Positions(Markets):
    """`group` and `retold` are the transaction's logs and those of its match orders that do not count; `fours`: of a
    match order that tells its other side, the four statements that do."""

    group: list[Log]
    retold: list[Log]
    fours: dict[Log, list[Log]]

    def find_fours(self) -> dict[Log, list[Log]]:
        """A match order's four statements, wherever they are sure: the last four before it that are nobody else's,
        if they balance with it and no other four of these do."""
        self.fours = found = {}
        used: set[int] = set()  # places of statements that are of an earlier execution's accounts
        for place, log in enumerate(self.group):
            if log.name not in (SINGLE, PAIR, V3):
                continue
            unused = [n for n in range(place) if self.group[n].name == "PositionDataUpdated" and n not in used]
            runs = [[self.group[n] for n in unused[k : k + 4]] for k in range(len(unused) - 3)]
            balanced = [run for run in runs if log.name == SINGLE and balances(log, run)]
            if len(balanced) == 1 and balanced[0] is runs[-1]:
                found[log] = balanced[0]
            for n in unused:
                a = self.group[n].args
                if a["marketId"] == log.args["marketId"] and a["accountId"] in self.sides(log):
                    used.add(n)
        return found

    def accounts(self, log: Log) -> list[int]:
        """Whose positions an execution changes, the account first."""
        return [] if log.name not in (SINGLE, PAIR, V3) or log in self.retold else self.sides(log)

    def sides(self, log: Log) -> list[int]:
        other = self.mirror(log) if log.name == SINGLE else log.args["counterpartyAccountId"]
        return list(dict.fromkeys([log.args["accountId"]] + ([other] if other else [])))

    def other_side(self, single: Log) -> int | None:
        """Who is on the other side of a match order, when its transaction tells."""
        four = self.fours.get(single)
        return four[-1].args["accountId"] if four else None

    def mirror(self, single: Log) -> int | None:
        """Who takes the other side of a match order: who is told to, or else the pool's account; None when that is not
        known, or it is a keeper's."""
        if single in self.fours:
            return self.other_side(single)
        won = [g for g in self.group if g.name == "AccountExecutedLiquidationBid" and g.args["success"]]
        if single.args["accountId"] in [g.args["accountId"] for g in won]:
            return None
        market = self.market_at(single)
        if market is None:
            return self.config.pool
        return market.get("poolAccountId", 0) or None

    def owner_of(self, n: int) -> Log | None:
        """The execution to which the statement in place `n` of the transaction belongs: the next of its account. One
        that has its four has no others."""
        a = self.group[n].args
        for log in self.group[n + 1 :]:
            if a["accountId"] in self.accounts(log) and log.args["marketId"] == a["marketId"]:
                return None if self.group[n] not in self.fours.get(log, self.group) else log
        return None

    def around(self, log: Log, account: int) -> list[Log]:
        """The statements of the account that belong to this execution, first to last."""
        return [
            g
            for n, g in enumerate(self.group)
            if g.name == "PositionDataUpdated" and g.args["accountId"] == account and self.owner_of(n) is log
        ]

    def market_at(self, log: Log) -> Row | None:
        """What the transaction says of the execution's market: the latest so far, or else the earliest to come."""
        place = self.group.index(log)
        told: list[tuple[int, Row]] = [
            (n, g.args["marketData"])
            for n, g in enumerate(self.group)
            if g.name == "MarketDataUpdated" and g.args["marketData"]["id"] == log.args["marketId"]
        ]
        earlier = [data for n, data in told if n < place]
        later = [data for n, data in told if n > place]
        return earlier[-1] if earlier else later[0] if later else None

    def trackers(self, log: Log, base: int) -> Row:
        market = self.market_at(log)
        if market is None:
            return {"fundingValue": None, "baseMultiplier": None, "adlUnwindPrice": None}
        trackers: Row = market["longTrackers" if base > 0 else "shortTrackers"]
        return trackers

    def on_PositionDataUpdated(self, log: Log) -> None:
        if self.owner_of(self.group.index(log)) is None:
            self.restate(log, log.args["accountId"], log.args["positionData"])

    def restate(self, log: Log, account: int, stated: Row) -> None:
        known = self.known(log, account)
        self.save(log, account, self.rebased(known, stated), (known or {}).get("last_trade_sequence_number"))

    def known(self, log: Log, account: int) -> Row | None:
        key = (log.args["marketId"], account)
        row = self.states["positions"].get(key)
        if row is None:
            return None
        return row | {"snapshot": self.states["position_raw"][key]["realized_pnl_latest_snapshot"]}

    def rebased(self, known: Row | None, stated: Row) -> Row:
        """What is left of our accounting when the chain states the position."""
        fields = chain_fields(stated)
        new = fields["base"]
        if known is None:
            return fields | FORGOTTEN | {"session": abs(sign(new))}
        old = known["base"]
        if new == old:
            return known | fields
        remains = self.unwound(known, fields["base_multiplier"])
        if remains != old and abs(new - remains) <= rounding(old) and sign(new) in (sign(old), 0):
            return known | fields | (FLAT if new == 0 else {})
        session = known["session"] + (1 if new and sign(new) != sign(old) else 0)
        return known | fields | FORGOTTEN | {"session": session}

    def unwound(self, p: Row, multiplier: int | None) -> int:
        """The base that auto-deleveraging left, now that the side's multiplier is this one."""
        last = p.get("base_multiplier")
        if last and multiplier is not None and multiplier < last:
            return towards_zero(p["base"] * multiplier, last)
        base: int = p["base"]
        return base

    def catch_up(self, p: Row, size: int, after: Any, multiplier: int | None) -> None:
        """Auto-deleveraging since the position's last statement, when none precedes the execution."""
        remains = self.unwound(p, multiplier)
        if remains == p["base"]:
            return
        if after is not None and abs(after["base"] - size - remains) <= rounding(p["base"]):
            remains = after["base"] - size
        p["base"] = remains
        if remains == 0:
            p |= FLAT

    def trade(self, log: Log, account: int, size: int, price: int, told: tuple[Any, Any] = (None, None)) -> Row:
        """One side of an execution; gives the columns of order_history that follow from it, and the session."""
        before, after = told
        last, own = log, self.around(log, account)
        pending = [g.args["positionData"] for g in own]
        if before is None and pending:
            joins = after is not None and size != 0 and after["base"] - pending[0]["base"] == size
            if len(pending) >= 2 or joins:
                before = pending[0]
        if after is None and pending:
            after, last = pending[-1], own[-1]
        p = self.known(log, account)
        sequence = log.args.get("eventSequenceNumber", (p or {}).get("last_trade_sequence_number"))
        if before is not None:
            p = self.rebased(p, before)
        if p is None:
            held = 0 if after is None else after["base"] - size
            p = {"base": held, "session": abs(sign(held))} | FORGOTTEN
        if before is not None:
            now = before["trackers"]
        else:
            now = self.trackers(log, p["base"])
            if now["fundingValue"] is None and after is not None and sign(after["base"]) == sign(p["base"]) != 0:
                now = after["trackers"]
            self.catch_up(p, size, after, now["baseMultiplier"])
        reduces = sign(size) == -sign(p["base"]) != 0
        pnl = self.account_for(log, p, size, price, now, after)
        wrong = False
        p |= dict.fromkeys(CHAIN) | {"base": p["base"] + size}
        if p["base"] != 0:  # the side's trackers are those of every position on it, right after its execution
            side = self.trackers(log, p["base"])
            p |= {column: side[name] for column, name in TRACKERS.items()}
        if after is not None:
            if after["base"] != p["base"]:
                pnl, wrong = UNKNOWN, True
                p |= FORGOTTEN
                p["session"] += 1 if sign(after["base"]) != sign(p["base"]) else 0
            p |= chain_fields(after)
        self.save(last, account, p, sequence)
        entry = p["average_entry_price"]
        unproven = wrong or (p["base"] != 0 and entry is None) or (reduces and pnl["r_pnl"] is None)
        return pnl | {"average_entry_price": entry, "processed": size == 0 or not unproven, "session": p["session"]}

    def account_for(self, log: Log, p: Row, size: int, price: int, now: Row, after: Any) -> Row:
        """Changes the averages, snapshot and session in `p`; gives what is realised."""
        held = p["base"]
        entering = after["trackers"]["fundingValue"] if after else self.trackers(log, held + size)["fundingValue"]
        opened = {
            "average_entry_price": price,
            "average_entry_funding_value": entering,
            "snapshot": after["realizedPnL"] if after else None,
            "session": p["session"] + 1,
        }
        if size == 0:
            return UNKNOWN
        if held == 0:
            p |= opened
            return UNKNOWN
        if sign(held) == sign(size):
            p["average_entry_price"] = mean(p["average_entry_price"], held, price, size)
            p["average_entry_funding_value"] = mean(p["average_entry_funding_value"], held, entering, size)
            return UNKNOWN
        closed = sign(held) * min(abs(size), abs(held))
        pnl = self.realised(p, closed, price, now["fundingValue"], now["baseMultiplier"])
        if abs(size) == abs(held):
            p |= FLAT
        elif abs(size) > abs(held):
            p |= opened
        return pnl

    def realised(self, p: Row, closed: int, price: int, funding: int | None, multiplier: int | None) -> Row:
        moved = paid = None
        if p["average_entry_price"] is not None:
            moved = towards_zero(closed * (price - p["average_entry_price"]), 10**18)
        if p["average_entry_funding_value"] is not None and funding is not None and multiplier:
            paid = towards_zero(-closed * (funding - p["average_entry_funding_value"]), multiplier)
        total = None if moved is None or paid is None else moved + paid
        return {"price_variation_pnl": moved, "funding_pnl": paid, "r_pnl": total}

    def save(self, log: Log, account: int, p: Row, sequence: int | None) -> None:
        key = {"market_id": log.args["marketId"], "account_id": account}
        chain = {k: p[k] for k in ("base", *CHAIN)}
        averages = {k: p[k] for k in ("average_entry_price", "average_entry_funding_value")}
        row = key | chain | averages | {"session": p["session"], "last_trade_sequence_number": sequence}
        raw = {RAW.get(k, k): v for k, v in (key | chain | averages).items()}
        self.state("positions", row | log.at)
        self.state("position_raw", raw | {"realized_pnl_latest_snapshot": p["snapshot"]} | log.at)

    def on_PoolPSlippageUpdated(self, log: Log) -> None:
        a = log.args
        row = {
            "market_id": a["marketId"],
            "pool_price": a["oraclePrice"] + towards_zero(a["oraclePrice"] * a["premiumIndex"], 10**18),
            "oracle_price": a["oraclePrice"],
            "block_timestamp": log.where["block_timestamp"],
            "block_number": log.where["block_number"],
        }
        self.state("pool_price_snapshot", row)
        self.state("pool_price_history", row)
