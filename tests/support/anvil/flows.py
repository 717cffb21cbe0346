"""What the exchange does, as transactions of logs: every generation of events, in realistic order."""

from __future__ import annotations

import random
from typing import Any

from tests.support.anvil.emission import Abis, Emission

ZERO = "0x" + "00" * 20
E18, E6 = 10**18, 10**6
Flow = list[Emission]


def _from(address: str) -> dict[str, Any]:
    """The argument `from`, which Python cannot spell as a keyword."""
    return {"from": address}


class World:
    """Accounts, owners, positions and a clock; each method returns the logs of one transaction."""

    def __init__(self, abis: Abis, seed: int) -> None:
        self.abis, self.rng = abis, random.Random(seed)
        self.time = 1_740_000_000
        self.next_account, self.sequence = 100, 0
        self.accounts: list[int] = []
        self.owners: dict[int, str] = {}
        self.positions: dict[tuple[int, int], int] = {}
        self.markets = [1, 2, 3]
        self.pool_account, self.backstop_account = 2, 3
        self.rusd = abis.addresses["rusd"]

    def log(self, contract: str, event: str, variant: int = 0, **args: Any) -> Emission:
        return self.abis.make(self.rng, contract, event, {"blockTimestamp": self.time} | args, variant)

    def wallet(self) -> str:
        return "0x" + self.rng.randbytes(20).hex()

    def transaction(self) -> Flow:
        """A random transaction."""
        self.time += self.rng.randrange(1, 5)
        if len(self.accounts) < 4:
            return self.open_account()
        flows = [
            (2, self.open_account), (3, self.deposit), (2, self.withdraw), (2, self.transfer), (4, self.amm_order_1),
            (5, self.amm_order_2), (8, self.amm_order_3), (8, self.book_order), (2, self.ranked_liquidation),
            (2, self.backstop_liquidation), (2, self.dutch_liquidation), (2, self.adl), (2, self.book_liquidation),
            (2, self.auto_exchange), (3, self.pool_shares), (5, self.rusd_transfers), (2, self.change_owner),
            (2, self.settings), (1, self.oddities), (2, self.two_equal_fills), (6, self.anything),
        ]  # fmt: skip
        chosen = self.rng.choices([flow for _, flow in flows], [weight for weight, _ in flows])[0]
        return chosen()

    def setup(self) -> list[Flow]:
        """What is configured before anybody trades."""
        backstop = self.log(
            "core", "BackstopLPConfigurationUpdated", collateralPoolId=1, newConfig={"accountId": self.backstop_account}
        )
        pool = self.log("passive_pool", "PoolCreated", poolId=1, quoteToken=self.rusd, accountId=self.pool_account)
        markets = [
            self.log("core", "MarketRegistered", marketId=m, quoteCollateral=self.rusd, name=f"M{m}-rUSD")
            for m in self.markets
        ]
        return [[backstop], [pool], markets, self.settings(), self.settings()]

    def open_account(self) -> Flow:
        account, owner = self.next_account, self.wallet()
        self.next_account += 1
        self.accounts.append(account)
        self.owners[account] = owner
        # The contracts tell the owner twice in one call.
        return [
            self.log("account_nft", "Transfer", **_from(ZERO), to=owner, tokenId=account),
            self.log("core", "AccountOwnerUpdated", accountId=account, newOwner=owner),
            self.log("core", "AccountCreated", accountId=account, owner=owner),
            self.log("core", "AccountOwnerUpdated", accountId=account, newOwner=owner),
        ]

    def change_owner(self) -> Flow:
        account, new = self.rng.choice(self.accounts), self.wallet()
        old, self.owners[account] = self.owners[account], new
        return [
            self.log("account_nft", "Transfer", **_from(old), to=new, tokenId=account),
            self.log("core", "AccountOwnerUpdated", accountId=account, newOwner=new),
        ]

    def _shares(self, account: int, delta: int) -> Emission:
        return self.log(
            "core", "AccountCollateralSharesUpdated", accountId=account, collateral=self.rusd, sharesDelta=delta
        )

    def deposit(self) -> Flow:
        account, amount = self.rng.choice(self.accounts), self.rng.randrange(1, 10**12)
        return [
            self.log("rusd", "Transfer", **_from(self.owners[account]), to=self.abis.addresses["core"], value=amount),
            self._shares(account, amount),
            self.log("core", "Deposited", accountId=account, collateral=self.rusd, collateralAmount=amount),
        ]

    def withdraw(self) -> Flow:
        account, amount = self.rng.choice(self.accounts), self.rng.randrange(1, 10**10)
        return [
            self._shares(account, -amount),
            self.log("rusd", "Transfer", **_from(self.abis.addresses["core"]), to=self.owners[account], value=amount),
            self.log("core", "Withdrawn", accountId=account, collateral=self.rusd, collateralAmount=amount),
        ]

    def transfer(self) -> Flow:
        source, destination = self.rng.sample(self.accounts, 2)
        amount = self.rng.randrange(1, 10**9)
        return [
            self._shares(source, -amount),
            self._shares(destination, amount),
            self.log(
                "core", "TransferBetweenMarginAccounts", sourceAccountId=source, destinationAccountId=destination,
                collateral=self.rusd, collateralAmount=amount,
            ),
        ]  # fmt: skip

    def _order(self) -> tuple[int, int, int]:
        """Market, account, signed base."""
        market, account = self.rng.choice(self.markets), self.rng.choice(self.accounts)
        base = self.rng.choice((-1, 1)) * self.rng.randrange(1, 100) * E18 // 100
        self.positions[market, account] = self.positions.get((market, account), 0) + base
        return market, account, base

    def _market_data(self, market: int, variant: int = 0) -> Emission:
        return self.log(
            "passive_perp", "MarketDataUpdated", variant, marketData={"id": market, "quoteToken": self.rusd}
        )

    def _fees(self) -> dict[str, Any]:
        rng = self.rng
        return {
            "referrerFeeCredit": rng.choice((0, rng.randrange(10**6))),
            "makerPayments": rng.choice(([], [-5, 3], [rng.randrange(-(10**6), 10**6)])),
        }

    def _match(self, market: int, account: int, base: int, variant: int = 0) -> Emission:
        return self.log(
            "passive_perp", "PassivePerpMatchOrder", variant, marketId=market, accountId=account, orderBase=base,
            matchOrderFees=self._fees(), referrerAccountId=self.rng.choice((0, self.rng.choice(self.accounts))),
        )  # fmt: skip

    def _update(self, market: int, account: int, base: int, *, order: bool, kind: int, counterparty: int) -> Emission:
        return self.log(
            "passive_perp", "PassivePerpOrderAndPositionUpdate", marketId=market, accountId=account, executedBase=base,
            counterpartyAccountId=counterparty, matchOrderFees=self._fees(), isMatchOrder=order, liquidationType=kind,
            referrerAccountId=self.rng.choice((0, self.rng.choice(self.accounts))),
            positionData={"base": self.positions[market, account]},
        )  # fmt: skip

    def amm_order_1(self) -> Flow:
        market, account, base = self._order()
        return [self._match(market, account, base, variant=1), self._market_data(market)]

    def amm_order_2(self) -> Flow:
        market, account, base = self._order()
        position = self.log("passive_perp", "PositionDataUpdated", marketId=market, accountId=account,
                            positionData={"base": self.positions[market, account]})  # fmt: skip
        slippage = self.log("passive_perp", "PoolPSlippageUpdated", marketId=market)
        return [position, self._match(market, account, base), self._market_data(market), slippage]

    def amm_order_3(self) -> Flow:
        market, account, base = self._order()
        update = self._update(market, account, base, order=True, kind=0, counterparty=self.pool_account)
        return [self._match(market, account, base), update, self._market_data(market)]

    def two_equal_fills(self) -> Flow:
        """Two fills of equal market, account and base in one transaction, only one of them told in full."""
        market, account, base = self._order()
        update = self._update(market, account, base, order=True, kind=0, counterparty=self.pool_account)
        return [self._match(market, account, base), self._match(market, account, base), update]

    def _execution(self, kind: int, variant: int) -> Flow:
        market, account, base = self._order()
        other = self.rng.choice([a for a in self.accounts if a != account])
        before, opposite = self.positions[market, account] - base, self.positions.get((market, other), 0)
        self.positions[market, other] = opposite - base
        self.sequence += 1
        execution = self.log(
            "passive_perp", "PassivePerpExecutionV3", variant, marketId=market, accountId=account,
            eventSequenceNumber=self.sequence, counterpartyAccountId=other,
            payload={
                "executedBase": base, "executionType": kind,
                "referrerAccountId": self.rng.choice((0, self.rng.choice(self.accounts))),
                "accountPositionBefore": {"base": before}, "accountPositionAfter": {"base": before + base},
                "counterpartyPositionBefore": {"base": opposite},
                "counterpartyPositionAfter": {"base": opposite - base},
            },
        )  # fmt: skip
        return [execution, self._market_data(market, variant=1)]

    def book_order(self) -> Flow:
        return self._execution(0, self.rng.randrange(2))

    def book_liquidation(self) -> Flow:
        return self._execution(self.rng.choice((1, 2, 3, 4, 5, 6)), self.rng.randrange(2))

    def _bid(self, account: int, *, success: bool) -> Emission:
        return self.log("core", "AccountExecutedLiquidationBid", accountId=account, success=success)

    def ranked_liquidation(self) -> Flow:
        market, account, base = self._order()
        told = self.rng.random() < 0.5
        update = (
            [self._update(market, account, base, order=False, kind=0, counterparty=self.pool_account)] if told else []
        )
        return [self._match(market, account, base), *update, self._bid(account, success=self.rng.random() < 0.8)]

    def _stated(self, market: int, account: int, base: int) -> Emission:
        return self.log("passive_perp", "PositionDataUpdated", marketId=market, accountId=account,
                        positionData={"base": base})  # fmt: skip

    def _sides(self, market: int, account: int, base: int, other: int) -> Flow:
        """The position events of an order that `_order` made, against this account."""
        held = self.positions.get((market, other), 0)
        mine = self.positions[market, account]
        self.positions[market, other] = held - base
        sides = ((account, mine - base), (account, mine), (other, held), (other, held - base))
        return [self._stated(market, whose, stated) for whose, stated in sides]

    def maker_orders(self) -> Flow:
        """One to three fills against other traders, whom only the position events name; sometimes two are equal."""
        logs: Flow = []
        market, account, base = self._order()
        for n in range(self.rng.randrange(1, 4)):
            if n:
                self.positions[market, account] += base
            other = self.rng.choice([a for a in self.accounts if a != account])
            logs += [*self._sides(market, account, base, other), self._match(market, account, base)]
        return logs

    def keeper_liquidation(self) -> Flow:
        market, account, base = self._order()
        keeper = self.rng.choice([a for a in self.accounts if a != account])
        sides = self._sides(market, account, base, self.rng.choice((keeper, keeper, self.backstop_account)))
        return [*sides, self._match(market, account, base), self._bid(account, success=True)]

    def backstop_liquidation(self) -> Flow:
        market, account, base = self._order()
        return [self._update(market, account, base, order=False, kind=0, counterparty=self.backstop_account)]

    def dutch_liquidation(self) -> Flow:
        market, account, base = self._order()
        return [
            self._update(market, account, base, order=False, kind=self.rng.randrange(3), counterparty=self.pool_account)
        ]

    def adl(self) -> Flow:
        market, account, base = self._order()
        return [self._update(market, account, base, order=False, kind=3, counterparty=self.pool_account)]

    def auto_exchange(self) -> Flow:
        liquidated, liquidator = self.rng.sample(self.accounts, 2)
        given = {"accountId": liquidated, "liquidatorAccountId": liquidator, "inCollateral": self.rusd}
        return [self.log("core", "AutoExchangeTriggered", input=given)]

    def pool_shares(self) -> Flow:
        """One of the three generations: without a token, with one, with what was done for whom."""
        generation = self.rng.choice((1, 0, 2))
        token = {} if generation == 1 else {"token": self.rusd}
        return [
            self.log("passive_pool", "ShareBalanceUpdated", generation, poolId=1, **token),
            self.log("srusd", "Transfer", **_from(ZERO), to=self.wallet(), value=self.rng.randrange(10**30)),
        ]

    def rusd_transfers(self) -> Flow:
        """A mint, transfers and a burn."""
        a, b, amount = self.wallet(), self.wallet(), self.rng.randrange(10**12)
        pairs = ((ZERO, a), (a, b), (b, ZERO))
        return [self.log("rusd", "Transfer", **_from(source), to=to, value=amount) for source, to in pairs]

    def settings(self) -> Flow:
        flag = self.rng.randbytes(32)
        market = self.rng.choice(self.markets)
        return [
            self.log("core", "GlobalCollateralConfigurationUpdated", collateralAddress=self.rusd, collateralDecimals=6),
            self.log("core", "CollateralParentConfigurationUpdated", collateralPoolId=1, collateralAddress=self.rusd),
            self.log("core", "LiquidationConfigurationUpdated", collateralPoolId=1),
            self.log("core", "RiskMultipliersUpdated", collateralPoolId=1),
            self.log("core", "RiskMatrixCreation", collateralPoolId=1, riskBlockId=self.rng.randrange(2)),
            self.log("core", "AutoExchangeConfigurationUpdated", collateralPoolId=1),
            self.log("core", "SpotMarketInfoUpdated", spotMarketId=self.rng.randrange(3)),
            self.log(
                "core", "MarketUpdated", market={"id": market, "quoteCollateral": self.rusd, "collateralPoolId": 1}
            ),
            self.log("passive_perp", "FeatureFlagAllowAllSet", feature=flag, allowAll=True),
            self.log("passive_perp", "FeatureFlagDenyAllSet", feature=flag),
        ]

    def anything(self) -> Flow:
        """Any events of any contract with any arguments: what has no table must not disturb, what has one must fit."""
        events = self.rng.choices(sorted(self.abis.events), k=3)
        return [self.log(c, e, self.rng.randrange(len(self.abis.events[c, e]))) for c, e in events]

    def oddities(self) -> Flow:
        """Logs that no decoder reads, and the largest amount there is."""
        core = self.abis.addresses["core"]
        cut = self.log("core", "Deposited")
        huge = self.log("rusd", "Transfer", **_from(ZERO), to=self.wallet(), value=2**256 - 1)
        return [
            Emission("unknown", core, (b"\x07" * 32,), self.rng.randbytes(40)),
            Emission("without topics", core, (), b"\x01"),
            Emission("Deposited, cut", core, cut.topics, cut.data[:-1]),
            huge,
        ]
