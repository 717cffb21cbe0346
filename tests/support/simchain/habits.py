"""What providers do between a caller and a node, one small class each. Data about real ones: `providers.py`.

A habit is written down with its source. Numbers that a provider names in its words are filled in from the stub's own,
smaller ones, so that a chain of a few hundred blocks meets every limit.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from aiohttp import web

from tests.support.simchain.chain import Tree
from tests.support.simchain.node import Fault, Say, SimNode
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.view import Json, Tag, View

WINDOW_S = 0.1  # of the stubs' rates; the real ones count by the second
Shape = Literal["object", "list", "entries"]  # one error object, a list of one bare error, an error for each call


@dataclass(frozen=True, kw_only=True, eq=False)
class Habit:
    """One thing that a provider does. `source`: the page or thread that says so."""

    source: str

    @property
    def http(self) -> bool:
        """Whether it is about HTTP itself: statuses, headers, pages, sizes of bodies, connections."""
        return False

    def prepare(self, node: ProviderNode) -> None:
        """Sets the node's knobs."""

    def whole(self, calls: Sequence[Json], asked: Any, node: ProviderNode) -> Fault | None:
        """What an HTTP request gets in place of answers."""
        return None

    def for_request(self, node: ProviderNode) -> View | None:
        """Another node that answers this HTTP request."""
        return None

    def for_call(self, node: ProviderNode) -> View | None:
        """Another node that answers this call."""
        return None

    def before(self, method: str, params: list[Any], node: ProviderNode) -> None:
        """Raises Refusal for a call that is not answered."""

    def after(self, method: str, params: list[Any], result: Any, node: ProviderNode) -> Any:
        """The result as the caller gets it. May raise Refusal."""
        return result

    def entries(self, batch: list[Json]) -> list[Json]:
        """The answers of one HTTP request, spelled in the provider's way."""
        return batch


class ProviderNode(SimNode):
    """A node behind a provider's habits."""

    def __init__(self, habits: Sequence[Habit], tree: Tree, head: bytes, chain_id: int) -> None:
        super().__init__(tree, head, chain_id)
        self.habits = habits
        self.seen: Counter[Any] = Counter()  # what habits count
        self.spent: dict[Habit, tuple[float, int]] = {}  # by rate: the begin of its window, and what was counted in it
        self.others: dict[Habit, View] = {}  # second nodes of balanced providers
        self.sent = 0  # bytes of the results of the current HTTP request
        self.met: Counter[Habit] = Counter()  # how often a habit showed
        self.refused = 0  # HTTP requests and calls that were refused
        self.broken: list[Exception] = []  # errors of the stub itself, which its caller takes for the provider's
        self._statuses: list[int] = []
        self._closing = False
        for habit in habits:
            habit.prepare(self)

    def every(self, habit: Habit, n: int) -> bool:
        """Whether this is the n-th time, the 2n-th, and so on."""
        self.seen[habit] += 1
        now = self.seen[habit] % n == 0
        self.met[habit] += now
        return now

    def close_connection(self) -> None:
        """After the answer to the current HTTP request."""
        self._closing = True

    async def respond(self, body: bytes) -> web.Response | None:
        try:
            return await super().respond(body)
        except Exception as error:
            self.broken.append(error)
            raise

    def _fault(self, asked: Any) -> Fault | None:
        calls = asked if isinstance(asked, list) else [asked]
        for habit in self.habits:
            fault = habit.whole(calls, asked, self)
            if fault is not None:
                self.refused += 1
                self.met[habit] += 1
                return fault
        return super()._fault(asked)

    def _answers(self, asked: Any, view: View) -> Any:
        self._statuses, self.sent = [], 0
        others = [other for habit in self.habits if (other := habit.for_request(self)) is not None]
        return super()._answers(asked, others[0] if others else view)

    def _one(self, call: Json, view: View) -> Json:
        method, params = call["method"], call.get("params") or []
        habit: Habit | None = None
        try:
            for habit in self.habits:
                habit.before(method, params, self)
            others = [other for one in self.habits if (other := one.for_call(self)) is not None]
            answer = super()._one(call, others[0] if others else view)
            for habit in self.habits if "result" in answer else ():
                result = answer["result"]
                answer["result"] = habit.after(method, params, result, self)
                self.met[habit] += answer["result"] is not result and answer["result"] != result
            return answer
        except Refusal as refusal:
            assert habit is not None
            self.refused += 1
            self.met[habit] += 1
            self._statuses.append(getattr(refusal, "status", 200))
            error: Json = {"code": refusal.code, "message": refusal.message}
            if refusal.data is not None:
                error["data"] = refusal.data
            return {"jsonrpc": "2.0", "id": call.get("id"), "error": error}

    def _response(self, answers: Any) -> web.Response:
        batch = answers if isinstance(answers, list) else [answers]
        for habit in self.habits:
            spelled = habit.entries(batch)
            self.met[habit] += spelled is not batch
            batch = spelled
        response = super()._response(batch if isinstance(answers, list) else batch[0])
        if not isinstance(answers, list) and self._statuses:
            response.set_status(self._statuses[-1])
        if self._closing:
            self._closing = False
            response.force_close()
        return response


class StatusRefusal(Refusal):
    """A refusal with the HTTP status that a single call gets; a batch is answered with 200."""

    def __init__(self, code: int, message: str, data: Any = None, status: int = 200) -> None:
        super().__init__(code, message, data)
        self.status = status


@dataclass(frozen=True, kw_only=True, eq=False)
class Refuses(Habit):
    """Words of a refusal. `data` is a text, or an object whose texts have numbers filled in too."""

    code: int
    words: str
    status: int = 200
    data: Any = None

    @property
    def http(self) -> bool:
        return self.status != 200

    def refuse(self, **numbers: int | str) -> None:
        """Raises Refusal."""
        raise StatusRefusal(self.code, self.words.format(**numbers), _filled(self.data, numbers), self.status)

    def say(self, shape: Shape, asked: Sequence[Json], /, **numbers: int | str) -> Say:
        """The refusal of a whole HTTP request."""
        error: Json = {"code": self.code, "message": self.words.format(**numbers)}
        if self.data is not None:
            error["data"] = _filled(self.data, numbers)
        body: Any = {"jsonrpc": "2.0", "id": None, "error": error}
        if shape == "list":
            body = [error]
        elif shape == "entries":
            body = [{"jsonrpc": "2.0", "id": c.get("id"), "error": error} for c in asked]
        return Say(self.status, orjson.dumps(body).decode())


def _filled(value: Any, numbers: dict[str, int | str]) -> Any:
    if isinstance(value, str):
        return value.format(**numbers)
    return {k: _filled(v, numbers) for k, v in value.items()} if isinstance(value, dict) else value


# -- ranges of eth_getLogs


@dataclass(frozen=True, kw_only=True, eq=False)
class MostBlocks(Refuses):
    """At most `cap` blocks in one eth_getLogs. Words may name {cap}, {first}, {last}, {fits}, {span}. `silent`: the
    connection is closed without an answer."""

    cap: int
    silent: bool = False

    @property
    def http(self) -> bool:
        return self.silent or super().http

    def whole(self, calls: Sequence[Json], asked: Any, node: ProviderNode) -> Fault | None:
        wide = (c for c in calls if c["method"] == "eth_getLogs" and _span(c["params"][0], node)[2] > self.cap)
        return "drop" if self.silent and next(wide, None) is not None else None

    def before(self, method: str, params: list[Any], node: ProviderNode) -> None:
        if method == "eth_getLogs" and not self.silent:
            first, last, span = _span(params[0], node)
            if span > self.cap:
                self.refuse(cap=self.cap, first=first, last=last, fits=first + self.cap - 1, span=span)


@dataclass(frozen=True, kw_only=True, eq=False)
class MostLogs(Refuses):
    """At most `cap` logs, or `size` bytes of logs, in one answer."""

    cap: int = 10**9
    size: int = 10**9

    def after(self, method: str, params: list[Any], result: Any, node: ProviderNode) -> Any:
        if method != "eth_getLogs" or (len(result) <= self.cap and len(orjson.dumps(result)) <= self.size):
            return result
        first, last, span = _span(params[0], node)
        over = int(result[min(self.cap, len(result) - 1)]["blockNumber"], 16)
        self.refuse(cap=self.cap, size=self.size, first=first, last=last, fits=max(first, over - 1), span=span)


def _span(asked: Json, node: View) -> tuple[int, int, int]:
    if "blockHash" in asked:
        return 0, 0, 1
    first, last = (node._limit(asked.get(k, "latest")) for k in ("fromBlock", "toBlock"))
    return first, last, last - first + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class MostBytes(Refuses):
    """At most `size` bytes of results in one HTTP answer: the calls after that are refused."""

    size: int

    def after(self, method: str, params: list[Any], result: Any, node: ProviderNode) -> Any:
        node.sent += len(orjson.dumps(result))
        if node.sent > self.size:
            self.refuse(size=self.size)
        return result


def _number(block: str, node: View) -> int:
    """The number of a block that is named by hash, number or tag; above every head where it is not there."""
    if len(block) < 66:
        return node._limit(block)
    found = node.by_hash(bytes.fromhex(block[2:]))
    return 1 << 60 if found is None else found.number


@dataclass(frozen=True, kw_only=True, eq=False)
class Omits(Habit):
    """Every n-th eth_getLogs finds nothing."""

    n: int

    def after(self, method: str, params: list[Any], result: Any, node: ProviderNode) -> Any:
        return [] if method == "eth_getLogs" and node.every(self, self.n) else result


@dataclass(frozen=True, kw_only=True, eq=False)
class Duplicates(Habit):
    """Every n-th eth_getLogs has its last log twice."""

    n: int

    def after(self, method: str, params: list[Any], result: Any, node: ProviderNode) -> Any:
        return [*result, result[-1]] if method == "eth_getLogs" and result and node.every(self, self.n) else result


@dataclass(frozen=True, kw_only=True, eq=False)
class LateLogs(Habit):
    """The logs of a new head are found when it was asked for `times` times."""

    times: int = 2

    def after(self, method: str, params: list[Any], result: Any, node: ProviderNode) -> Any:
        top = node.top
        if method != "eth_getLogs" or _span(params[0], node)[1] < top.number:
            return result
        node.seen[self, top.hash] += 1
        late = node.seen[self, top.hash] <= self.times
        return [g for g in result if g["blockHash"] != top.hex] if late else result


# -- batches and rates


@dataclass(frozen=True, kw_only=True, eq=False)
class MostCalls(Refuses):
    """At most `cap` calls in a batch; 0: no batches."""

    cap: int
    shape: Shape = "object"

    def whole(self, calls: Sequence[Json], asked: Any, node: ProviderNode) -> Fault | None:
        if isinstance(asked, list) and len(calls) > self.cap:
            return self.say(self.shape, calls, cap=self.cap, calls=len(calls))
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Rate(Refuses):
    """So many calls, or HTTP requests, in WINDOW_S. An HTTP request that is over it gets one error ("one"), an error
    for each of its calls ("each"), or answers up to the limit and errors beyond ("rest")."""

    cap: int
    counts: Literal["calls", "requests"] = "calls"
    answer: Literal["one", "each", "rest"] = "one"
    headers: dict[str, str] = field(default_factory=dict)

    def whole(self, calls: Sequence[Json], asked: Any, node: ProviderNode) -> Fault | None:
        if self.answer == "rest" or not self._over(len(calls) if self.counts == "calls" else 1, node):
            return None
        shape: Shape = "entries" if self.answer == "each" and isinstance(asked, list) else "object"
        return self.say(shape, calls, cap=self.cap)._replace(headers=self.headers)

    def before(self, method: str, params: list[Any], node: ProviderNode) -> None:
        if self.answer == "rest" and self._over(1, node):
            self.refuse(cap=self.cap)

    def _over(self, count: int, node: ProviderNode) -> bool:
        now = time.monotonic()
        began, spent = node.spent.get(self, (now, 0))
        if now - began >= WINDOW_S:
            began, spent = now, 0
        # What is refused costs nothing: a caller that asks for little is answered, however often it was refused.
        over = spent + count > self.cap
        node.spent[self] = (began, spent if over else spent + count)
        return over


# -- trouble now and then


@dataclass(frozen=True, kw_only=True, eq=False)
class OneIn(Refuses):
    """Every n-th call of a method is refused."""

    method: str
    n: int

    def before(self, method: str, params: list[Any], node: ProviderNode) -> None:
        if method == self.method and node.every(self, self.n):
            self.refuse()


@dataclass(frozen=True, kw_only=True, eq=False)
class Pages(Habit):
    """Every n-th HTTP request is answered with a page of the gateway, or not at all."""

    n: int
    status: int = 502
    body: str = ""
    drop: bool = False
    http = True

    def whole(self, calls: Sequence[Json], asked: Any, node: ProviderNode) -> Fault | None:
        if not node.every(self, self.n):
            return None
        return "drop" if self.drop else Say(self.status, self.body, {"Content-Type": "text/html"})


@dataclass(frozen=True, kw_only=True, eq=False)
class LargeBodies(Habit):
    """A request of more than `size` bytes is answered with a page."""

    size: int
    status: int
    body: str
    http = True

    def whole(self, calls: Sequence[Json], asked: Any, node: ProviderNode) -> Fault | None:
        return Say(self.status, self.body) if len(orjson.dumps(asked)) > self.size else None


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosesConnections(Habit):
    """After every n-th answer."""

    n: int
    http = True

    def whole(self, calls: Sequence[Json], asked: Any, node: ProviderNode) -> Fault | None:
        if node.every(self, self.n):
            node.close_connection()
        return None


# -- methods, tags, blocks that are not there


@dataclass(frozen=True, kw_only=True, eq=False)
class NoMethod(Refuses):
    """A method that is not served; words may name {method}."""

    method: str

    def before(self, method: str, params: list[Any], node: ProviderNode) -> None:
        if method == self.method:
            self.refuse(method=method)


@dataclass(frozen=True, kw_only=True, eq=False)
class PrunedReceipts(Refuses):
    """Receipts of blocks below this one are refused; words may name {number}."""

    below: int

    def before(self, method: str, params: list[Any], node: ProviderNode) -> None:
        if method == "eth_getBlockReceipts" and (number := _number(params[0], node)) < self.below:
            self.refuse(number=number)


@dataclass(frozen=True, kw_only=True, eq=False)
class NoTag(Refuses):
    """Tags that are refused; words may name {tag}. `n`: only every n-th time."""

    tags: tuple[str, ...] = ("safe", "finalized")
    n: int = 1

    def before(self, method: str, params: list[Any], node: ProviderNode) -> None:
        if method == "eth_getBlockByNumber" and params[0] in self.tags and node.every(self, self.n):
            self.refuse(tag=params[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class OddTag(Habit):
    """`finalized` and `safe` are answered with another block than one would expect."""

    finalized: Tag

    def prepare(self, node: ProviderNode) -> None:
        node.finalized = node.safe = self.finalized
        node.met[self] += 1


# -- fields and spelling

ABSENT: Any = object()


@dataclass(frozen=True, kw_only=True, eq=False)
class Field(Habit):
    """A field of logs, headers or receipts. `n`: only in every n-th block, by number."""

    of: Literal["log", "header", "receipt"]
    name: str
    value: Any = ABSENT  # a value, or a function of the object
    n: int = 1

    def after(self, method: str, params: list[Any], result: Any, node: ProviderNode) -> Any:
        if self.of == "log" and method == "eth_getLogs":
            return [self._changed(g, "blockNumber") for g in result]
        if self.of == "header" and method.startswith("eth_getBlockBy") and result is not None:
            return self._changed(result, "number")
        if self.of == "receipt" and method == "eth_getBlockReceipts" and result is not None:
            return [self._changed(r, "blockNumber") for r in result]
        return result

    def _changed(self, entry: Json, number: str) -> Json:
        if int(entry[number], 16) % self.n:
            return entry
        value = self.value(entry) if callable(self.value) else self.value
        if value is ABSENT:
            return {k: v for k, v in entry.items() if k != self.name}
        return entry | {self.name: value}


@dataclass(frozen=True, kw_only=True, eq=False)
class NoReceipts(Habit):
    """eth_getBlockReceipts of every n-th block, by number, is an empty list."""

    n: int

    def after(self, method: str, params: list[Any], result: Any, node: ProviderNode) -> Any:
        if method != "eth_getBlockReceipts" or not result:
            return result
        return result if int(result[0]["blockNumber"], 16) % self.n else []


@dataclass(frozen=True, kw_only=True, eq=False)
class TextIds(Habit):
    """Ids come back as texts."""

    def entries(self, batch: list[Json]) -> list[Json]:
        return [entry | {"id": None if entry["id"] is None else str(entry["id"])} for entry in batch]


@dataclass(frozen=True, kw_only=True, eq=False)
class Unordered(Habit):
    """The answers of a batch come in another order."""

    def entries(self, batch: list[Json]) -> list[Json]:
        return batch[::-1]


# -- several nodes behind one URL


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoNodes(Habit):
    """Every second HTTP request, or call, goes to a node that hears of a new head `late` requests or calls later: until
    then it serves an older head, or an orphaned one."""

    late: int = 4
    each: Literal["request", "call"] = "request"
    beyond_head: Literal["silent", "error"] = "silent"  # eth_getLogs of a range that ends above its head

    def for_request(self, node: ProviderNode) -> View | None:
        return self._next(node) if self.each == "request" else None

    def for_call(self, node: ProviderNode) -> View | None:
        return self._next(node) if self.each == "call" else None

    def _next(self, node: ProviderNode) -> View | None:
        other = node.others.get(self)
        if other is None:
            other = node.others[self] = View(node.tree, node.head, node.chain_id)
        other.finalized, other.safe, other.beyond_head = node.finalized, node.safe, self.beyond_head
        if other.head != node.head:
            node.seen[self, node.head] += 1
            if node.seen[self, node.head] > self.late:
                other.head = node.head
        return other if node.every(self, 2) else None
