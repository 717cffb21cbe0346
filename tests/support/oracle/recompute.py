"""Every public table from the canonical logs, from scratch, with dictionaries: slow, plain, no code of the program's.

What a column means is the schema's contract (docs/explanation/data-model.md, docs/reference/columns.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.support.oracle.base import Log, Row
from tests.support.oracle.decode import Config
from tests.support.oracle.positions import Positions

Told = Sequence[tuple[Row | None, Row]]  # the account's position before and after, then the counterparty's


def recompute(logs: Iterable[dict[str, Any]], config: str | Path) -> dict[str, list[Row]]:
    """Rows by table. `logs`: JSON-RPC form with `blockTimestamp`, in chain order."""
    world = _World(Config(config))
    known = [g for g in logs if g["address"] in world.config.events]
    for _, group in groupby(known, key=lambda g: (g["blockNumber"], g["transactionHash"])):
        world.transaction(list(group))
    return world.lists | {name: list(rows.values()) for name, rows in world.states.items()}


class _World(Positions):
    def transaction(self, raw: list[dict[str, Any]]) -> None:
        logs = [Log(self.config, r) for r in raw]
        bids = {g.args["accountId"] for g in logs if g.name == "AccountExecutedLiquidationBid" and g.args["success"]}
        self.group, self.retold = logs, self.told_again(logs)
        self.find_fours()
        for log in logs:
            if log.name is None:
                self.undecoded(log)
            elif log.name == "PassivePerpMatchOrder":
                if log not in self.retold:
                    self.match_order(log, bids)
            elif log.name == "PassivePerpOrderAndPositionUpdate":
                self.order_update(log, bids)
            else:
                handler = getattr(self, f"on_{log.name}", None)
                if handler:
                    handler(log)

    def told_again(self, logs: list[Log]) -> list[Log]:
        """Match orders that a later update of the same transaction tells again: the nearest one before it."""
        found: list[Log] = []
        for n, update in enumerate(logs):
            if update.name != "PassivePerpOrderAndPositionUpdate":
                continue
            same = (update.args["marketId"], update.args["accountId"], update.args["executedBase"])
            for earlier in reversed(logs[:n]):
                if earlier.name == "PassivePerpMatchOrder" and earlier not in found:
                    a = earlier.args
                    if (a["marketId"], a["accountId"], a["orderBase"]) == same:
                        found.append(earlier)
                        break
        return found

    def undecoded(self, log: Log) -> None:
        key = (log.address, log.topic0, log.reason)
        count = self.states["indexer.undecoded"].get(key, {"count": 0})["count"]
        row = {"address": log.address, "topic0": log.topic0, "reason": log.reason, "count": count + 1}
        self.state("indexer.undecoded", row)

    def on_Upgraded(self, log: Log) -> None:
        count = self.states["indexer.proxy_upgrade"].get((log.address,), {"count": 0})["count"]
        row = {"address": log.address, "implementation": log.args["implementation"], "count": count + 1}
        self.state(
            "indexer.proxy_upgrade", row | {"block_number": log.where["block_number"], "block_time": log.seconds}
        )

    # -- orders

    def match_order(self, log: Log, bids: set[int]) -> None:
        a = log.args
        won = a["accountId"] in bids
        extra = self.amm(a) | {"is_match_order": not won, "liquidation_type": 1 if won else -1}
        extra |= {"counterparty_account_id": self.other_side(log)}
        self.execution(log, "liquidation" if won else "order", a["orderBase"], a["executedOrderPrice"], extra)

    def order_update(self, log: Log, bids: set[int]) -> None:
        a = log.args
        kind = -1 if a["isMatchOrder"] else a["liquidationType"]
        if kind == 0:
            if a["accountId"] in bids:
                kind = 1
            elif a["counterpartyAccountId"] in self.backstops.values():
                kind = 2
        extra = self.amm(a) | {
            "is_match_order": a["isMatchOrder"],
            "liquidation_type": kind,
            "position_base": a["positionData"]["base"],
            "counterparty_account_id": a["counterpartyAccountId"],
        }
        word = "order" if kind == -1 else "adl" if kind == 3 else "liquidation"
        told = [(None, a["positionData"]), (None, a["counterpartyPositionData"])]
        self.execution(log, word, a["executedBase"], a["executedPrice"], extra, told)

    def amm(self, args: Row) -> Row:
        fees = args["matchOrderFees"]
        return {
            "fee": fees["takerFeeDebit"],
            "protocol_fee_credit": fees["protocolFeeCredit"],
            "exchange_fee_credit": fees["exchangeFeeCredit"],
            "referrer_fee_credit": fees.get("referrerFeeCredit"),
            "pool_fee_credit": (fees["makerPayments"] or [None])[0],
            "referrer_account_id": args.get("referrerAccountId"),
        }

    def on_PassivePerpExecutionV3(self, log: Log) -> None:
        a, p = log.args, log.args["payload"]
        words = ["order", "liquidation", "liquidation", "liquidation", "adl", "market_close"]
        kind, fees = p["executionType"], p["fees"]
        extra = {
            "fee": sum(
                fees[k] for k in ("protocolFeeCredit", "referrerFeeCredit", "takerRebateCredit", "poolFeeCredit")
            ),
            "protocol_fee_credit": fees["protocolFeeCredit"],
            "referrer_fee_credit": fees["referrerFeeCredit"],
            "taker_rebate_credit": fees["takerRebateCredit"],
            "pool_fee_credit": fees["poolFeeCredit"],
            "execution_type": kind,
            "is_match_order": kind == 0,
            "liquidation_type": kind - 1 if kind < 5 else None,
            "position_base": p["accountPositionAfter"]["base"],
            "counterparty_account_id": a["counterpartyAccountId"],
            "referrer_account_id": p["referrerAccountId"],
            "counterparty_exchange_id": p["counterpartyExchangeId"],
            "account_order_id": p["accountOrderId"],
            "counterparty_order_id": p["counterpartyOrderId"],
            "me_nonce": p["meNonce"],
            "event_sequence_number": a["eventSequenceNumber"],
        }
        word = words[kind] if kind < 6 else f"execution_{kind}"
        told = [(p[f"{side}PositionBefore"], p[f"{side}PositionAfter"]) for side in ("account", "counterparty")]
        self.execution(log, word, p["executedBase"], p["price"], extra, told)

    def execution(self, log: Log, word: str, base: int, price: int, extra: Row, told: Told = ()) -> None:
        a = log.args
        account, *others = self.accounts(log)
        mine = self.trade(log, account, base, price, *told[:1])
        for other in others:
            self.trade(log, other, -base, price, *told[1:2])
        if told and a["counterpartyAccountId"] == account:
            self.restate(log, account, told[1][1])
        session = mine.pop("session")
        who = {"market_id": a["marketId"], "account_id": a["accountId"]}
        common = {"id": log.id, "price": price, "fee": extra["fee"], "created_at": log.date} | who | log.at
        self.append("orders", common | extra | {"executed_base": base, "position_session": session})
        self.append("order_history", common | {"order_base": base, "type": word} | mine)
        owner = self.states["account_owner_updated_snapshot"].get((a["accountId"],), {}).get("new_owner")
        if word == "liquidation":
            place = {k: log.at[k] for k in ("block_timestamp", "transaction_hash", "unique_id")}
            details = {"owner_address": owner, "base": base, "execution_price": price, "fees": extra["fee"]}
            self.append("liquidation_history_details", {"id": log.id} | who | place | details)
        if extra["referrer_fee_credit"] and extra["referrer_account_id"]:
            rebate = {
                "id": log.id,
                "referrer_account_id": extra["referrer_account_id"],
                "referee_wallet_address": owner,
                "referee_account_id": a["accountId"],
                "token": self.config.rusd,
                "amount": extra["referrer_fee_credit"],
                "market_id": a["marketId"],
            }
            self.append("rebate_fee_history", rebate | log.at)

    # -- accounts and balances

    def on_AccountOwnerUpdated(self, log: Log) -> None:
        row = {"account_id": log.args["accountId"], "new_owner": log.args["newOwner"]} | log.at
        self.append("account_owner_updated_history", row | {"id": log.id})
        self.state("account_owner_updated_snapshot", row)

    def on_AccountCreated(self, log: Log) -> None:
        if (log.args["accountId"],) not in self.states["account_owner_updated_snapshot"]:
            row = {"account_id": log.args["accountId"], "new_owner": log.args["owner"]}
            self.state("account_owner_updated_snapshot", row | log.at)

    def on_AccountCollateralSharesUpdated(self, log: Log) -> None:
        account, collateral, delta = log.args["accountId"], log.args["collateral"], log.args["sharesDelta"]
        key = {"account_id": account, "collateral": collateral}
        self.append("account_collateral_balance_entries", {"id": log.id, "amount": delta} | key | log.at)
        total = self.balances[account, collateral] = self.balances.get((account, collateral), 0) + delta
        self.state("account_balances", key | {"balance": total, "delta": delta})

    def margin(self, log: Log, entries: list[tuple[str, int, int | None, str, int]]) -> None:
        for n, (kind, account, other, collateral, amount) in enumerate(entries):
            row = {
                "id": log.id + (f"-{n}" if n else ""),
                "type": kind,
                "account_id": account,
                "counterparty_account_id": other,
                "collateral": collateral,
                "amount": amount,
                "sender": log.args.get("sender"),
            }
            self.append("margin_accounts_balance_entries", row | log.at)

    def on_Deposited(self, log: Log) -> None:
        a = log.args
        self.margin(log, [("deposit", a["accountId"], None, a["collateral"], a["collateralAmount"])])

    def on_Withdrawn(self, log: Log) -> None:
        a = log.args
        self.margin(log, [("withdrawal", a["accountId"], None, a["collateral"], -a["collateralAmount"])])

    def on_TransferBetweenMarginAccounts(self, log: Log) -> None:
        a = log.args
        giver, taker, amount = a["sourceAccountId"], a["destinationAccountId"], a["collateralAmount"]
        given = ("transfer", giver, taker, a["collateral"], -amount)
        self.margin(log, [given, ("transfer", taker, giver, a["collateral"], amount)])

    def on_AutoExchangeTriggered(self, log: Log) -> None:
        i, o = log.args["input"], log.args["output"]
        sick, helper = i["accountId"], i["liquidatorAccountId"]
        row = {
            "id": log.id,
            "liquidated_account_id": sick,
            "liquidator_account_id": helper,
            "requested_quote_amount": i["requestedQuoteAmount"],
            "collateral_out_address": i["collateral"],
            "collateral_in_address": i["inCollateral"],
            "collateral_amount_to_liquidator": o["collateralAmountToLiquidator"],
            "quote_amount_to_insurance_fund": o["quoteAmountToIF"],
            "quote_amount_to_account": o["quoteAmountToAccount"],
        }
        self.append("auto_exchange", row | log.at)
        sold, paid = o["collateralAmountToLiquidator"], o["quoteAmountToAccount"] + o["quoteAmountToIF"]
        self.margin(
            log,
            [
                ("auto_exchange_withdrawal", sick, helper, i["collateral"], -sold),
                ("auto_exchange_deposit", sick, helper, i["inCollateral"], o["quoteAmountToAccount"]),
                ("auto_exchange_deposit", helper, sick, i["collateral"], sold),
                ("auto_exchange_withdrawal", helper, sick, i["inCollateral"], -paid),
            ],
        )

    def on_ShareBalanceUpdated(self, log: Log) -> None:
        a = log.args
        names = {
            "pool_id": "poolId", "account": "account", "share_delta": "shareDelta",
            "new_share_balance": "newShareBalance", "token_delta": "tokenDelta",
        }  # fmt: skip
        row = {"id": log.id} | {column: a[name] for column, name in names.items()} | log.at
        if "token" not in a:
            self.append("lp_account_balance_entries", row)
            return
        row |= {"token": a["token"], "token_delta_in_quote": a["tokenDeltaInQuote"]}
        action = a.get("actionMetadata", {"action": None, "onBehalfOf": None})
        row |= {"action_metadata_action": action["action"], "action_metadata_on_behalf_of": action["onBehalfOf"]}
        self.append("lp_unified_account_balance_entries", row)

    def on_Transfer(self, log: Log) -> None:
        if log.address not in self.config.erc20:
            return
        a = log.args
        row = {"token": log.address, "from_address": a["from"], "to_address": a["to"], "amount": a["value"]}
        self.append("token_transfer", {"id": log.id, "created_at": log.date} | row | log.at)
