"""Every published query on rows that the indexer wrote, against the oracle, with the clock stopped at the edges of its
windows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.queries import fill, plan_of, variants, wrong_indexes
from indexer import config
from indexer.chain.batch import LogBatch
from indexer.chain.types import Header, Log
from indexer.db.connection import Connection, connection
from indexer.embedded_pg.server import EmbeddedServer
from indexer.projector.step import Step
from indexer.projector.writer import Writer
from indexer.schema import migrate
from indexer.schema.tables.metadata import public
from indexer.store import lease
from indexer.store.index_state import DeploymentBinding, bind, load_index_state
from tests.support.oracle.base import Row
from tests.support.oracle.compare import differences, fetch_database
from tests.support.oracle.queries import ANSWERS, Answer, Facts, Near
from tests.support.oracle.recompute import recompute
from tests.support.published import queries
from tests.support.simchain.chain import GENESIS_TIME, Block, SimLog, SimTx, Tree
from tests.support.simchain.world import Exchange, exchange

CONFIG = Path(__file__).parents[2] / "config" / "devnet.toml"
NOW = GENESIS_TIME + 10 * 86_400
START = NOW - 86_400  # of the last 24 hours
WALLET, ACCOUNT, MARKET = Facts.wallet, Facts.account, Facts.market
OTHER = 70_000  # an account of the same wallet
# Accounts that each trade once, on a market and for an owner of their own: more than Q06's limit.
SINGLES = range(60_000, 60_060)
# Microseconds from NOW: whole seconds, and either side of where a cast to bigint rounds up.
CLOCKS = (-1_000_000, -1, 0, 1, 499_999, 500_000, 999_999, 1_000_000)
PAGE = 50  # blocks that are written at once
LIMIT = 50  # rows of Q06


def once(second: int) -> int:
    """An account that trades in this second alone."""
    return 80_000 + second - GENESIS_TIME


def owner(account: int) -> str:
    return f"0x{account:040x}"


class Edges:
    """Transactions at exact seconds: what the queries' windows must hold or leave out."""

    def __init__(self, world: Exchange, rng: random.Random) -> None:
        self.world, self.rng = world, rng

    def log(self, contract: str, event: str, variant: int = 0, **args: Any) -> SimLog:
        made = self.world.abis.make(self.rng, contract, event, args, variant)
        return SimLog(made.address, made.topics, made.data)

    def tx(self, *logs: SimLog) -> SimTx:
        return SimTx(self.rng.randbytes(32), logs)

    def owned(self, account: int, owner: str) -> SimTx:
        return self.tx(self.log("core", "AccountOwnerUpdated", accountId=account, newOwner=owner, blockTimestamp=1))

    def staked(self, owner: str, action: int) -> SimTx:
        token = self.world.abis.addresses["rusd"]
        metadata = {"action": action, "onBehalfOf": owner}
        return self.tx(
            self.log("passive_pool", "ShareBalanceUpdated", 2, poolId=1, token=token, actionMetadata=metadata)
        )

    def orders(self, second: int) -> list[SimTx]:
        """An order, a liquidation and an ADL execution of accounts with and without a known owner, the pool's too; at
        the window's end one who trades in that second alone."""
        made = []
        for account in (ACCOUNT, ACCOUNT, OTHER, 2, 71_000, *([once(second)] if second >= NOW - 1 else ())):
            for market in (MARKET, 2):
                for kind in (0, 1, 4):
                    made.append(self.tx(self.execution(second, market, account, kind)))
        return made

    def execution(self, second: int, market: int, account: int, kind: int) -> SimLog:
        """Closes a part of a position that was opened elsewhere: it has a PnL."""
        size, price = self.rng.randrange(1, 10**19), self.rng.randrange(10**20, 10**24)
        trackers = {"fundingValue": self.rng.randrange(10**18), "baseMultiplier": 10**18}
        states = {
            f"{side}Position{when}": {"base": sign * (10**20 - size * (when == "After")), "trackers": trackers}
            for side, sign in (("account", 1), ("counterparty", -1))
            for when in ("Before", "After")
        }
        payload = {"executedBase": -size, "price": price, "executionType": kind, "referrerAccountId": 0} | states
        return self.log(
            "passive_perp", "PassivePerpExecutionV3", 0, marketId=market, accountId=account, blockTimestamp=second,
            counterpartyAccountId=71_500, payload=payload,
        )  # fmt: skip

    def singles(self, second: int) -> list[SimTx]:
        """One trade of each of these accounts; and one that is written within the window, executed before it."""
        made = [self.tx(self.execution(second, account, account, 0)) for account in SINGLES]
        return [*made, self.tx(self.execution(START - 1, MARKET, ACCOUNT, 0))]

    def opening(self, market: int, account: int) -> SimTx:
        """A position whose entry price is known."""
        update = self.log(
            "passive_perp", "PassivePerpOrderAndPositionUpdate", marketId=market, accountId=account, isMatchOrder=True,
            blockTimestamp=GENESIS_TIME + 70,
            counterpartyAccountId=2, executedBase=10**20, executedPrice=5 * 10**23, referrerAccountId=0,
            positionData={"base": 10**20, "trackers": {"fundingValue": 0, "baseMultiplier": 10**18}},
        )  # fmt: skip
        return self.tx(update)


def history(tree: Tree) -> Block:
    """Traffic long ago, within the window and after it; at each edge and a second to either side, chosen executions."""
    rng = random.Random("queries")
    world = exchange(tree)
    edges = Edges(world, rng)
    tip = world.grow(tree.genesis.hash, 250, rng, 1.0)
    owners = [edges.owned(ACCOUNT, rng.randbytes(20).hex().join(("0x", ""))), edges.owned(ACCOUNT, WALLET)]
    # Of those with settings: the wallet and the first hold srUSD, the others only came near it.
    stakes = [edges.staked(WALLET, 5), edges.staked(WALLET, 6)]
    stakes += [edges.staked(owner(SINGLES[5 * n]), action) for n, action in enumerate((8, 5, 7))]
    opened = [edges.opening(market, account) for market in (MARKET, 2) for account in (ACCOUNT, OTHER, 2)]
    alone = [once(NOW + away) for away in (-1, 0, 1)]
    owners += [edges.owned(OTHER, WALLET), *(edges.owned(account, owner(account)) for account in (2, *alone, *SINGLES))]
    tip = tree.extend(tip.hash, [*owners, *stakes, *opened])
    for edge in (START, NOW):
        for second in (edge - 1, edge, edge + 1):
            random_ones = world.traffic(rng, tip.hash, 3, second)
            tip = tree.extend(tip.hash, [*edges.orders(second), *random_ones], timestamp=second)
        if edge == START:
            tip = tree.extend(tip.hash, edges.singles(START + 2), timestamp=START + 2)
            tip = world.grow(tip.hash, 120, rng, 2.0)
    return tip


def unit(blocks: list[Block], addresses: tuple[str, ...]) -> LogBatch:
    headers = [Header(b.number, b.hash, b.parent, b.timestamp) for b in blocks]
    logs = [
        Log(b.number, n, bytes.fromhex(g.address[2:]), tx.hash, at, tuple(g.topics), g.data, b.hash, b.timestamp)
        for b in blocks
        for n, at, tx, g in b
    ]
    return LogBatch(blocks[0].number, blocks[-1].number, addresses, logs, headers)


async def index(url: str, tree: Tree, tip: Block) -> None:
    """The chain through the real writer, whole blocks at a time."""
    await migrate.upgrade_async(url)
    deployment = config.load(str(CONFIG))
    addresses = tuple(sorted(c.address for c in deployment.contracts))
    path = tree.path(tip.hash)
    async with connection(url) as conn:
        await bind(conn, DeploymentBinding(deployment.name, deployment.chain_id, 0, tree.genesis.hash, 0))
        token = await lease.acquire(conn, "test")
        writer = Writer(deployment)
        for start in range(0, len(path), PAGE):
            some = unit(path[start : start + PAGE], addresses)
            step = Step(conn, await load_index_state(conn, addresses), token)
            await writer.commit_batch(step, some, tip.number - 20)


class Filled(NamedTuple):
    """The database's URL, and its rows as the oracle has them; an application's as they are."""

    url: str
    rows: dict[str, list[Row]]

    async def ask(self, query: str, now: int) -> list[tuple[Any, ...]]:
        """`now` in microseconds: what now() gives to the query."""
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now)
        async with connection(self.url, search_path="clock, pg_catalog, public") as conn:
            await conn.execute("SELECT set_config('clock.at', $1, false)", moment.isoformat())
            return [tuple(row) for row in await conn.fetch(query)]


async def applications(conn: Connection) -> None:
    """What others write: names, links and settings of some owners, the wallet's among them."""
    await conn.execute(
        "CREATE SCHEMA clock; CREATE FUNCTION clock.now() RETURNS timestamptz STABLE LANGUAGE sql AS"
        " $$ SELECT current_setting('clock.at')::timestamptz $$;"
        'INSERT INTO public."WalletDetails" (wallet, name, type) SELECT DISTINCT new_owner,'
        " CASE WHEN account_id % 4 = 0 THEN NULL ELSE 'n' || new_owner END,"
        " CASE WHEN account_id % 4 = 2 THEN NULL ELSE 'internal' END"
        " FROM public.account_owner_updated_snapshot WHERE account_id % 2 = 0;"
        'INSERT INTO public."WalletDiscordLink" ("walletAddress", "discordUsername", rank, "tradingRank", "createdAt",'
        " \"updatedAt\") SELECT DISTINCT new_owner, 'd' || new_owner, 'OG', 'au', current_timestamp, current_timestamp"
        " FROM public.account_owner_updated_snapshot WHERE account_id % 3 = 0;"
        "INSERT INTO public.account_owner_configuration (owner_address, tier_id, og_status)"
        " SELECT new_owner, 3, CASE WHEN max(account_id) = 95681 THEN true WHEN max(account_id) % 10 = 0 THEN false END"
        " FROM public.account_owner_updated_snapshot WHERE account_id = 95681 OR account_id % 5 = 0 GROUP BY new_owner"
    )


@pytest.fixture(scope="module")
def filled(server: EmbeddedServer) -> Filled:
    tree = Tree()
    tip = history(tree)
    server.ensure_database("published_queries")
    url = server.url("published_queries")
    rows = recompute(tree.logs(tip.hash), CONFIG)

    async def fill() -> None:
        await index(url, tree, tip)
        assert not differences(rows, await fetch_database(url))
        async with connection(url) as conn:
            await applications(conn)
        written = await fetch_database(url)
        for name in ("WalletDetails", "WalletDiscordLink", "account_owner_configuration"):
            rows[name] = written[name]

    asyncio.run(fill())
    return Filled(url, rows)


def ordered(answer: Answer | list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows that compare whatever order ties came in: the first column is each query's key."""
    return sorted(answer, key=lambda row: (row[0] is None, row[0] if len(answer) > 1 else 0))


# Query -> the column that its ORDER BY names, and whether it descends.
ORDERS = {"Q03": (7, True), "Q06": (1, True), "Q07": (1, True), "Q10": (6, True), "Q11": (7, False)}


async def test_every_published_query_gives_the_oracles_numbers_at_the_edges_of_its_windows(filled: Filled) -> None:
    statements = queries()
    assert set(statements) == set(ANSWERS) and len(statements) == 11
    answers: dict[str, list[Answer]] = {name: [] for name in statements}
    for offset in CLOCKS:
        facts = Facts(filled.rows, NOW * 10**6 + offset)
        for name, statement in statements.items():
            meant, found = ANSWERS[name](facts), await filled.ask(statement, facts.now)
            assert len(found) == len(meant), f"{name} at {offset}"
            for got, want in zip(ordered(found), ordered(meant), strict=True):
                assert [*want] == [*got], f"{name} at {offset}"
            if name in ORDERS:
                column, descending = ORDERS[name]
                values = [row[column] for row in found]
                assert values == sorted(values, reverse=descending), name
            answers[name].append(meant)
    by_clock = dict(zip(CLOCKS, zip(*answers.values(), strict=True), strict=True))
    names = list(answers)
    for name in ("Q01", "Q03", "Q04", "Q05", "Q06", "Q07", "Q10", "Q11"):
        # Rows at the edge are what a second or half of it decides on.
        seconds = [repr(by_clock[offset][names.index(name)]) for offset in (-1_000_000, 0, 1_000_000)]
        assert len(set(seconds)) == 3, f"{name} has no rows at its edges"
    wallets = [by_clock[offset][names.index("Q02")] for offset in (-1_000_000, 0)]
    assert wallets[0] != wallets[1], "Q02 has nobody at its end"
    for name in ("Q01", "Q03", "Q06", "Q07"):
        halves = [repr(by_clock[offset][names.index(name)]) for offset in (499_999, 500_000)]
        assert halves[0] != halves[1], f"{name} has no rows where its bounds round"
    for name in ("Q04", "Q10", "Q11"):
        exact = [repr(by_clock[offset][names.index(name)]) for offset in (0, 1)]
        assert exact[0] != exact[1], f"{name} has no rows at a microsecond"


async def test_the_rows_ask_every_part_of_the_queries(filled: Filled) -> None:
    facts = Facts(filled.rows, NOW * 10**6)
    board = {row[0]: row for row in ANSWERS["Q03"](facts)}
    assert {"unknown", WALLET} < set(board)
    assert board[WALLET][2] == [OTHER, ACCOUNT] and 2 not in {a for row in board.values() for a in row[2]}
    for column in (5, 6, 10, 12):  # PnL, win rate, name, discord name
        values = [row[column] for row in board.values()]
        assert any(values) and not all(values), column
    assert any(0 < row[6] < 1 for row in board.values())
    ((*_, wallets, interest),) = ANSWERS["Q04"](facts)
    assert wallets > 10 and interest != Near(interest.exact * 0)
    # Q06 ends at its limit, Q11 has none. The pool has an owner, and is left out only where a query says so.
    traded = {row["market_id"] for row in facts.history(START)}
    assert len(ANSWERS["Q06"](facts)) == LIMIT < len(traded) and len(ANSWERS["Q07"](facts)) == 1
    assert len(ANSWERS["Q11"](facts)) > LIMIT and owner(2) in {row[0] for row in ANSWERS["Q11"](facts)}
    assert ANSWERS["Q12"](facts) == [(ACCOUNT, WALLET)] and ANSWERS["Q13"](facts) == [(3, True, True)]
    tiers, ranks = ({row[column] for row in ANSWERS["Q11"](facts)} for column in (4, 3))
    assert tiers == {None, 3} and ranks == {None, "OG"}


async def test_other_wallets_accounts_and_markets_get_the_oracles_numbers(filled: Filled) -> None:
    """With and without settings, links, srUSD and trackers; where the account is not the wallet's, or is unknown."""
    asked = [(owner(account), account, account) for account in SINGLES[:12]]
    asked += [(WALLET, OTHER, 2), (owner(SINGLES[0]), ACCOUNT, MARKET), (owner(0), ACCOUNT - 1, 0)]
    answers: dict[str, list[Answer]] = {name: [] for name in ("Q07", "Q10", "Q12", "Q13")}
    for wallet, account, market in asked:
        facts = Facts(filled.rows, NOW * 10**6, wallet, account, market)
        for name, given in answers.items():
            statement = queries()[name].replace(f"market_id = '{MARKET}'", f"market_id = '{market}'")
            statement = statement.replace(WALLET, wallet).replace(f"'{ACCOUNT}'", f"'{account}'")
            given.append(ANSWERS[name](facts))
            assert await filled.ask(statement, facts.now) == given[-1], f"{name} of {wallet}, {account}, {market}"
    for name, given in answers.items():
        assert {len(answer) for answer in given} == {0, 1}, name
    assert {row[1:] for answer in answers["Q13"] for row in answer} == {(True, True), (False, True), (False, False)}
    traders = [row for answer in answers["Q10"] for row in answer]
    assert {row[3:5] for row in traders} == {("OG", 3), ("OG", None), (None, 3), (None, None)}
    untracked = [row for answer in answers["Q07"] for row in answer if row[0] in SINGLES]
    assert untracked and all(row[3:] == (0, 0) for row in untracked)


async def test_each_index_beyond_keys_is_read_by_a_query_or_a_reader_that_is_told(
    fresh_database: Callable[[], str],
) -> None:
    url = fresh_database()
    await migrate.upgrade_async(url)
    async with connection(url) as conn:
        await fill(conn, 60_000)
        plans = {name: await plan_of(conn, query) for name, query in variants().items()}
        used = set().union(*(plan.indexes for plan in plans.values()))
        assert await wrong_indexes(conn, used) == []
        for name, plan in plans.items():
            assert not {"order_history", "lp_unified_account_balance_entries"} & set(plan.scanned), name
        # One that nothing reads is found, and so is one whose reader goes another way.
        await conn.execute("CREATE INDEX stray ON public.order_history (fee)")
        await conn.execute("DROP INDEX public.positions_account_id_idx; CREATE INDEX positions_account_id_idx"
                           " ON public.positions (base)")  # fmt: skip
        assert await wrong_indexes(conn, used) == ["positions_account_id_idx", "stray"]


def test_no_index_repeats_the_first_columns_of_another() -> None:
    for table in public.sorted_tables:
        indexes = [[c.name for c in index.columns] for index in table.indexes]
        keys = [[c.name for c in table.primary_key.columns], *indexes]
        for columns in indexes:
            longer = [key for key in keys if key[: len(columns)] == columns]
            assert longer == [columns], f"{table.name} {columns}"
