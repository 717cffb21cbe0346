"""Blocks filled with what the exchange does. Each fork continues from the exchange as it was at the fork point."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from tests.support.anvil.emission import Abis
from tests.support.anvil.flows import Flow, World
from tests.support.simchain.chain import Block, SimLog, SimTx, Tree

SNAPSHOTS = 512
EVERY = 64
POOL = 1_000


class SimWorld(World):
    """The exchange with a bounded number of accounts, so that a copy of it is cheap; its clock is the block's."""

    def __init__(self, abis: Abis, rng: random.Random, most_accounts: int) -> None:
        super().__init__(abis, 0)
        self.rng, self.most_accounts = rng, most_accounts
        self.now = self.time

    def copy(self, rng: random.Random) -> SimWorld:
        twin = SimWorld.__new__(SimWorld)
        twin.__dict__.update(self.__dict__)
        twin.rng, twin.accounts = rng, list(self.accounts)
        twin.owners, twin.positions = dict(self.owners), dict(self.positions)
        return twin

    def transaction(self) -> Flow:
        self.time = self.now - 4  # the base class lets one to four seconds pass
        if len(self.accounts) >= 4 and self.rng.random() < 0.1:
            return self.rng.choice((self.maker_orders, self.keeper_liquidation))()
        return super().transaction()

    def open_account(self) -> Flow:
        return super().open_account() if len(self.accounts) < self.most_accounts else self.change_owner()


class Exchange:
    """What happens on one tree. Deterministic in the generator that is given; `most_accounts` bounds the memory."""

    def __init__(self, tree: Tree, deployment: str = "devnet", most_accounts: int = 60) -> None:
        self.tree, self.abis, self.most_accounts = tree, Abis(deployment), most_accounts
        self._worlds: OrderedDict[bytes, SimWorld] = OrderedDict()
        self._pool: list[tuple[SimLog, ...]] = []

    def traffic(
        self, rng: random.Random, parent: bytes, transactions: int, timestamp: int | None = None
    ) -> list[SimTx]:
        """So many transactions as they could follow this block. They change nothing that `grow` continues from."""
        world = self._world(parent, rng)
        return self._transactions(world, rng, parent, transactions, timestamp, 1.0)

    def grow(
        self,
        parent: bytes,
        blocks: int,
        rng: random.Random,
        density: float = 2.0,
        *,
        again: Iterable[SimTx] = (),
        fresh: float = 1.0,
        salt: bytes = b"",
    ) -> Block:
        """So many blocks on the parent, with `density` transactions each on average; the last of them.

        `again`: transactions that stood on another fork, spread over these blocks in a random order, each with its
        hash and its logs. `fresh`: the share of transactions that are made anew; the others repeat the logs of an
        earlier one under a hash of their own, which costs no encoding. On the genesis block the exchange is configured
        first.
        """
        world = self._world(parent, rng)
        waiting = list(again)
        rng.shuffle(waiting)
        for left in range(blocks, 0, -1):
            count = rng.randrange(2 * int(density) + 1) + (rng.random() < density % 1)
            txs = self._transactions(world, rng, parent, count, None, fresh)
            share = -(-len(waiting) // left)
            repeated, waiting = waiting[:share], waiting[share:]
            txs += repeated
            rng.shuffle(txs)
            if self.tree[parent].number == 0:
                world.time = world.now
                txs = [self._tx(rng, flow) for flow in world.setup()] + txs
            parent = self.tree.extend(parent, txs, salt=salt).hash
            if left <= EVERY or left % EVERY == 0:
                self._keep(parent, world)
        return self.tree[parent]

    def fork(
        self, tip: bytes, depth: int, blocks: int, rng: random.Random, density: float = 2.0, *, salt: bytes = b"fork"
    ) -> Block:
        """`blocks` others in the place of the last `depth` ones below `tip`; the last of them. Of the transactions
        replaced some are gone, some come again as they were, some come again with other logs under the same hash."""
        block = self.tree[tip]
        lost: list[SimTx] = []
        for _ in range(depth):
            lost += block.txs
            block = self.tree[block.parent]
        again = [tx for tx in lost if rng.random() < 0.7]
        return self.grow(block.hash, blocks, rng, density, again=self.replayed(again, block.hash, rng), salt=salt)

    def replayed(self, txs: Sequence[SimTx], parent: bytes, rng: random.Random, other: float = 0.4) -> list[SimTx]:
        """The transactions under their hashes, a share of `other` with logs as they turn out on this parent."""
        world = self._world(parent, rng)
        world.now = self.tree.next_timestamp(self.tree[parent])
        return [SimTx(tx.hash, _sim(world.transaction()), tx.kind) if rng.random() < other else tx for tx in txs]

    def _world(self, block_hash: bytes, rng: random.Random) -> SimWorld:
        """A copy of the exchange as it was after this block; or, where that is forgotten, of a little earlier, with
        accounts that nobody opened since."""
        block, stale = self.tree[block_hash], False
        while block.hash not in self._worlds and block.number:
            block, stale = self.tree[block.parent], True
        kept = self._worlds.get(block.hash)
        world = kept.copy(rng) if kept else SimWorld(self.abis, rng, self.most_accounts)
        if stale:
            world.next_account += 1_000 * rng.randrange(1, 10**6)
        return world

    def _keep(self, block_hash: bytes, world: SimWorld) -> None:
        self._worlds[block_hash] = world.copy(world.rng)
        if len(self._worlds) > SNAPSHOTS:
            self._worlds.popitem(last=False)

    def _transactions(
        self, world: SimWorld, rng: random.Random, parent: bytes, count: int, timestamp: int | None, fresh: float
    ) -> list[SimTx]:
        world.now = self.tree.next_timestamp(self.tree[parent]) if timestamp is None else timestamp
        made = []
        for _ in range(count):
            if fresh < 1 and self._pool and rng.random() >= fresh:
                made.append(SimTx(rng.randbytes(32), rng.choice(self._pool)))
                continue
            made.append(self._tx(rng, world.transaction()))
            if len(self._pool) < POOL:
                self._pool.append(tuple(made[-1].logs))
        return made

    def _tx(self, rng: random.Random, flow: Flow) -> SimTx:
        return SimTx(rng.randbytes(32), _sim(flow), rng.choice((0, 2, 2, 0x78)))


def _sim(flow: Flow) -> tuple[SimLog, ...]:
    return tuple(SimLog(e.address, e.topics, e.data) for e in flow)


def exchange(tree: Tree) -> Exchange:
    """The tree's exchange on `devnet`."""
    if "exchange" not in tree.companions:
        tree.companions["exchange"] = Exchange(tree)
    found: Exchange = tree.companions["exchange"]
    return found


def grow(tree: Tree, parent: bytes, blocks: int, rng: random.Random, density: float = 2.0) -> Block:
    return exchange(tree).grow(parent, blocks, rng, density)


def traffic(rng: random.Random, tree: Tree, parent: bytes, transactions: int) -> list[SimTx]:
    return exchange(tree).traffic(rng, parent, transactions)
