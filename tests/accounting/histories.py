"""What may happen at the desk, as named steps with small integers: each gives the logs of one transaction."""

from __future__ import annotations

from collections.abc import Callable

from tests.accounting.desk import E18, Desk, Fill, Flow

Step = Callable[[Desk, int, int], Flow]
STEPS: dict[str, Step] = {}


def step(make: Step) -> Step:
    STEPS[make.__name__] = make
    return make


def size_of(desk: Desk, market: int, account: int, n: int) -> int:
    """Opens, extends, reduces, closes and flips, a few units now and then: those that deleveraging takes to nothing."""
    held = desk.position(market, account).live(desk.markets[market])
    sizes = [7 * E18 // 10 + n, -(13 * E18 // 10) - n, -(held // 2), -held, -2 * held, held // 3, 1, -2]
    return sizes[n % len(sizes)] or E18 + n


def chosen(desk: Desk, who: int) -> tuple[int, int]:
    """A market and an account."""
    return 1 + who % len(desk.markets), desk.accounts[who // 2 % len(desk.accounts)]


def order(desk: Desk, who: int, n: int) -> Fill:
    """Against the pool."""
    market, account = chosen(desk, who)
    return desk.fill(market, account, desk.pool, size_of(desk, market, account, n))


def crossed(desk: Desk, who: int, n: int) -> Fill:
    """Against another trader."""
    market, account = chosen(desk, who)
    other = desk.accounts[(who // 2 + 1) % len(desk.accounts)]
    return desk.fill(market, account, other, size_of(desk, market, account, n))


@step
def amm_order(desk: Desk, who: int, n: int) -> Flow:
    fill = order(desk, who, n)
    return [*desk.around(fill), desk.match(fill), desk.update(fill)]


@step
def amm_order_without_its_statements(desk: Desk, who: int, n: int) -> Flow:
    fill = order(desk, who, n)
    return [desk.market_data(fill.market), desk.match(fill), desk.update(fill)]


@step
def stated_match_order(desk: Desk, who: int, n: int) -> Flow:
    fill = order(desk, who, n)
    return [*desk.around(fill), desk.match(fill, n % 2)]


@step
def bare_match_order(desk: Desk, who: int, n: int) -> Flow:
    fill = order(desk, who, n)
    return [desk.match(fill, n % 2), desk.market_data(fill.market)]


@step
def equal_fills(desk: Desk, who: int, n: int) -> Flow:
    """The same order two or three times in one transaction."""
    market, account = chosen(desk, who)
    size = size_of(desk, market, account, n)
    logs: Flow = []
    for _ in range(2 + n % 2):
        fill = desk.fill(market, account, desk.pool, size, desk.markets[market].price)
        logs += [*desk.around(fill), desk.match(fill), desk.update(fill)]
    return logs


@step
def several_fills(desk: Desk, who: int, n: int) -> Flow:
    """Of several accounts and both generations in one transaction."""
    logs: Flow = []
    for k in range(3):
        fill = crossed(desk, who + 2 * k, n + k)
        logs += [desk.execution(fill, 0, k % 2), desk.market_data(fill.market, 1)]
    return logs + amm_order(desk, who, n)


@step
def book_order(desk: Desk, who: int, n: int) -> Flow:
    fill = crossed(desk, who, n)
    return [desk.execution(fill, 0, n % 2), desk.market_data(fill.market, 1)]


@step
def price_and_funding(desk: Desk, who: int, n: int) -> Flow:
    market, _ = chosen(desk, who)
    desk.move(market, n % 21 - 10, (n % 7 - 3) * E18)
    return [desk.market_data(market, n % 2)]


@step
def position_stated(desk: Desk, who: int, n: int) -> Flow:
    """A position is brought up to date without an execution."""
    market, account = chosen(desk, who)
    now = desk.positions[market, account] = desk.position(market, account).updated(desk.markets[market])
    return desk.stated(market, account, now)


@step
def liquidation(desk: Desk, who: int, n: int) -> Flow:
    """Dutch, ranked or to the backstop, told in full or by a bare match order with its bid."""
    market, account = chosen(desk, who)
    held = desk.position(market, account).live(desk.markets[market])
    if held == 0:
        return book_order(desk, who, n)
    liquidator = (desk.accounts[(who // 2 + 1) % len(desk.accounts)], desk.backstop)[n % 2]
    fill = desk.fill(market, account, liquidator, -held if n % 3 else -(held // 2) or -held)
    logs = [*desk.around(fill), desk.update(fill, n // 2 % 3)]
    return logs + ([desk.bid(account)] if n % 5 == 0 else [])


@step
def maker_order(desk: Desk, who: int, n: int) -> Flow:
    """Against another trader, whom only the position events name."""
    fill = crossed(desk, who, n)
    return [*desk.around(fill), desk.match(fill, n % 2)]


@step
def swept_makers(desk: Desk, who: int, n: int) -> Flow:
    """One taker against several makers, and back, in equal fills of one transaction, some of them told in full."""
    market, account = chosen(desk, who)
    size = size_of(desk, market, account, n)
    logs: Flow = []
    for k in range(3):
        maker = desk.accounts[(who // 2 + 1 + k % 2) % len(desk.accounts)]
        fill = desk.fill(market, account, maker, size, desk.markets[market].price)
        logs += [*desk.around(fill), desk.match(fill, k % 2), *([desk.update(fill)] if (n + k) % 4 == 0 else [])]
    return logs


@step
def bare_liquidation(desk: Desk, who: int, n: int) -> Flow:
    """By a keeper's bid or to the backstop, in whole or in part, told by a match order and its position events."""
    market, account = chosen(desk, who)
    held = desk.position(market, account).live(desk.markets[market])
    if held == 0:
        return maker_order(desk, who, n)
    keeper = desk.accounts[(who // 2 + 1) % len(desk.accounts)]
    other, bids = (keeper, [desk.bid(account)]) if n % 2 else (desk.backstop, [])
    fill = desk.fill(market, account, other, -held if n % 3 else -(held // 2) or -held)
    told = desk.around(fill) if n % 5 else [*desk.stated_sides(fill)]
    return [*told, desk.match(fill, n // 2 % 2), *bids]


@step
def book_liquidation(desk: Desk, who: int, n: int) -> Flow:
    market, account = chosen(desk, who)
    held = desk.position(market, account).live(desk.markets[market])
    if held == 0:
        return amm_order(desk, who, n)
    kind = 1 + n % 3  # the third is to the backstop
    other = desk.backstop if kind == 3 else desk.accounts[(who // 2 + 1) % len(desk.accounts)]
    fill = desk.fill(market, account, other, -held)
    return [desk.execution(fill, kind, n % 2), desk.market_data(market, 1)]


@step
def deleveraging(desk: Desk, who: int, n: int) -> Flow:
    """Nobody is on the other side: everybody's base shrinks."""
    market, account = chosen(desk, who)
    fill = desk.deleverage(market, account)
    if fill is None:
        return amm_order(desk, who, n)
    told = desk.execution(fill, 4, n % 2) if n % 2 else desk.update(fill, 3)
    return [told, desk.market_data(market, n % 2)]


@step
def ownership(desk: Desk, who: int, n: int) -> Flow:
    return desk.own(chosen(desk, who)[1])
