"""A view and a node: they serve what the tree says, and each knob errs as told."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import aiohttp
import pytest
from eth_hash.auto import keccak

from tests.support.simchain.chain import Block
from tests.support.simchain.node import Fault, Say, SimNode, ThreadedNode
from tests.support.simchain.refusals import Refusal
from tests.support.simchain.sample import ADDRESS, EVERY, OTHER, Chain, places
from tests.support.simchain.view import Depth, View
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def view(chain: Chain) -> View:
    return View(chain.tree, chain.tip)


def get_logs(view: View, first: int | str = 0, last: int | str = "latest", **more: Any) -> list[dict[str, Any]]:
    limits = [hex(n) if isinstance(n, int) else n for n in (first, last)]
    found: list[dict[str, Any]] = view.answer("eth_getLogs", [{"fromBlock": limits[0], "toBlock": limits[1]} | more])
    return found


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def test_switching_forks_changes_every_answer(chain: Chain, view: View) -> None:
    assert places(get_logs(view)) == EVERY
    view.head = chain.side_tip
    assert view.answer("eth_blockNumber", []) == "0x8"
    assert view.answer("eth_getBlockByNumber", ["0x8", False])["hash"] == chain.side[8].hex
    assert view.answer("eth_getBlockByNumber", ["0x9", False]) is None
    assert places(get_logs(view)) == [*EVERY[:8], (8, 0)]
    receipt_ = view.answer("eth_getTransactionReceipt", ["0x" + keccak(b"t9").hex()])
    assert receipt_["blockHash"] == chain.side[8].hex
    # What it was once is still known by hash.
    assert view.answer("eth_getBlockByHash", [chain.main[9].hex, False])["number"] == "0x9"
    assert len(get_logs_of(view, chain.main[9])) == 2
    view.serves_orphans = False
    assert view.answer("eth_getBlockByHash", [chain.main[9].hex, False]) is None
    with pytest.raises(Refusal, match="unknown block"):
        get_logs_of(view, chain.main[9])
    view.head = chain.tip
    assert [b.hash for b in chain.main] == [raw(block_hash(view, n)) for n in range(11)]


def get_logs_of(view: View, block: Block) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = view.answer("eth_getLogs", [{"blockHash": block.hex}])
    return found


def block_hash(view: View, number: int) -> str:
    found: str = view.answer("eth_getBlockByNumber", [hex(number), False])["hash"]
    return found


def test_addresses_and_topics_choose_logs(view: View) -> None:
    assert len(get_logs(view, address=ADDRESS.upper().replace("X", "x"))) == 5
    assert len(get_logs(view, 3, 5, address=[ADDRESS, OTHER])) == 4
    assert get_logs(view, address=["0x" + "00" * 20]) == []
    assert len(get_logs(view, topics=[["0x" + "77" * 32]])) == 10
    assert get_logs(view, topics=[None, None]) == []


def test_lag_hides_the_newest_blocks(view: View) -> None:
    view.lag = 2
    assert view.answer("eth_blockNumber", []) == "0x8"
    assert view.answer("eth_getBlockByNumber", ["0x9", False]) is None
    assert places(get_logs(view, 0, 10)) == EVERY[:8]
    view.beyond_head = "error"
    with pytest.raises(Refusal, match="beyond current head"):
        get_logs(view, 0, 10)


def test_tags_are_numbers_depths_null_or_unknown(view: View) -> None:
    def tag(name: str) -> Any:
        found = view.answer("eth_getBlockByNumber", [name, False])
        return found and int(found["number"], 16)

    with pytest.raises(Refusal, match=r"^finalized block not found$"):
        tag("finalized")
    view.finalized, view.safe = 4, Depth(3)
    assert (tag("finalized"), tag("safe"), tag("latest"), tag("earliest")) == (4, 7, 10, 0)
    view.lag = 4
    assert tag("safe") == 3
    view.finalized, view.safe = "null", Depth(100)
    assert (tag("finalized"), tag("safe")) == (None, 0)
    assert places(get_logs(view, "earliest", "safe")) == []


def test_logs_lag_behind_headers(chain: Chain, view: View) -> None:
    view.log_lag = 2
    assert places(get_logs(view)) == EVERY[:8]
    assert get_logs_of(view, chain.main[9]) == []
    assert len(view.answer("eth_getBlockReceipts", ["0x9"])[0]["logs"]) == 2


def test_logs_are_left_out_always_or_of_ranges_only(chain: Chain, view: View) -> None:
    view.omit = {(chain.main[3].hash, 1)}
    assert places(get_logs(view, 3, 4)) == places(get_logs_of(view, chain.main[3])) == [(3, 0)]
    assert len(view.answer("eth_getBlockReceipts", ["0x3"])[0]["logs"]) == 2
    view.omit_receipts = True
    assert len(view.answer("eth_getBlockReceipts", ["0x3"])[0]["logs"]) == 1
    view.omit_mode = "ranges"
    assert places(get_logs(view, 3, 4)) == [(3, 0)]
    assert places(get_logs(view, 3, 3)) == places(get_logs_of(view, chain.main[3])) == [(3, 0), (3, 1)]


def test_indexes_are_made_up_and_entries_repeated(chain: Chain, view: View) -> None:
    view.wrong_index = {(chain.main[3].hash, 1): 0}
    assert places(get_logs(view, 3, 3)) == [(3, 0), (3, 0)]
    view.knobs()
    view.duplicate_entries = 1
    assert places(get_logs(view, 3, 3)) == [(3, 0), (3, 1), (3, 0)]
    view.knobs()
    view.removed_entries = 1
    assert [g["removed"] for g in get_logs(view, 3, 3)] == [False, False, True]
    view.knobs()
    view.removed_from = chain.side_tip
    assert [(p, g["removed"]) for p, g in zip(places(get_logs(view, 7)), get_logs(view, 7), strict=True)] == [
        ((7, 0), False), ((7, 1), False), ((9, 0), False), ((9, 1), False), ((8, 0), True),
    ]  # fmt: skip
    assert places(get_logs(view, 9)) == [(9, 0), (9, 1)]


def test_a_torn_node_takes_headers_and_logs_from_two_forks(chain: Chain, view: View) -> None:
    view.torn = chain.side_tip
    found = get_logs(view, 8, 10)
    assert [(p, g["blockHash"]) for p, g in zip(places(found), found, strict=True)] == [((8, 0), chain.side[8].hex)]
    view.torn_disguise = True
    assert get_logs(view, 8, 10)[0]["blockHash"] == chain.main[8].hex == block_hash(view, 8)
    view.torn = None
    assert places(get_logs(view, 8, 10)) == EVERY[8:]


def test_a_pruned_node_has_headers_but_no_logs(view: View) -> None:
    view.pruned_below = 6
    assert places(get_logs(view)) == EVERY[6:]
    assert get_logs(view, 3, 3) == []
    assert view.answer("eth_getBlockReceipts", ["0x3"]) is None
    assert view.answer("eth_getTransactionReceipt", ["0x" + keccak(b"t3").hex()]) is None
    assert block_hash(view, 3)
    view.pruned_mode = "error"
    for method, params in (("eth_getLogs", {"fromBlock": "0x5", "toBlock": "0x6"}), ("eth_getBlockReceipts", "0x3")):
        with pytest.raises(Refusal) as caught:
            view.answer(method, [params])
        assert caught.value.code == 4444


@pytest.mark.parametrize(
    ("says", "blocks", "logs"),
    [
        ("reya", "maximum 4", "more than 3 results$"),
        ("geth", "range: 4", r"Try with this block range \[0x1, 0x2\]"),
        ("alchemy", r"work: \[0x1, 0x4\]", r"work: \[0x1, 0x2\]"),
        ("nitro", "5 > 4", "limit of 3"),
    ],
)
def test_ranges_over_a_limit_are_refused_in_a_providers_words(view: View, says: Any, blocks: str, logs: str) -> None:
    view.says, view.max_blocks = says, 4
    assert len(get_logs(view, 1, 4)) == 4
    with pytest.raises(Refusal, match=blocks):
        get_logs(view, 1, 5)
    view.max_blocks, view.max_logs = None, 3
    assert len(get_logs(view, 1, 2)) == 2
    with pytest.raises(Refusal, match=logs):
        get_logs(view, 1, 5)
    with pytest.raises(Refusal, match="invalid block range"):
        get_logs(view, 5, 1)


def test_timestamps_of_logs_are_optional_and_answers_can_be_patched(view: View) -> None:
    view.log_timestamps = "some"
    assert ["blockTimestamp" in g for g in get_logs(view, 3, 3)] == [True, False]
    view.log_timestamps = "none"
    assert not any("blockTimestamp" in g for g in get_logs(view))
    view.patch_logs = lambda logs: logs[:1]
    view.patch_header = lambda header: header | {"logsBloom": None}
    assert len(get_logs(view)) == 1
    assert view.answer("eth_getBlockByNumber", ["latest", True])["logsBloom"] is None
    view.missing_methods = {"eth_getBlockReceipts"}
    for method in ("eth_getBlockReceipts", "eth_call", "knobs"):
        with pytest.raises(Refusal) as caught:
            view.answer(method, ["0x1"])
        assert caught.value.code == -32601


# -- a node


async def post(node: SimNode, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(node.url, json=body) as answer:
        text = await answer.text()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text


def call(method: str, *params: Any, number: int = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}


async def test_it_serves_what_the_tree_says_and_counts(chain: Chain) -> None:
    async with SimNode(chain.tree, chain.tip, chain_id=7) as node:
        batch = [
            call("eth_chainId", number=5), call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest"}, number=6),
            call("eth_getBlockByHash", chain.main[9].hex, True, number=7),
            call("eth_getBlockReceipts", "0x9", number=8),
            call("eth_nothing", number=9), call("eth_getBlockByNumber", "nine", number=10), call("eth_getLogs"),
        ]  # fmt: skip
        _, answers = await post(node, batch)
        assert [a["id"] for a in answers] == [5, 6, 7, 8, 9, 10, 1]
        assert answers[0]["result"] == "0x7"
        assert answers[1]["result"] == chain.tree.logs(chain.tip)
        assert answers[2]["result"]["transactions"][0]["hash"] == "0x" + keccak(b"t9").hex()
        assert answers[3]["result"] == chain.main[9].receipts()
        assert [a["error"]["code"] for a in answers[4:]] == [-32601, -32602, -32602]
        _, answer = await post(node, call("eth_getBlockByNumber", "latest", False))
        assert answer["result"] == chain.main[10].header()
        assert (node.http_requests, node.requests["eth_getLogs"], node.requests["eth_chainId"]) == (2, 2, 1)


async def test_the_head_may_move_in_the_middle_of_a_batch(chain: Chain) -> None:
    async with SimNode(chain.tree, chain.tip) as node:

        def switch(method: str, params: list[Any]) -> None:
            if method == "eth_getLogs":
                node.head = chain.side_tip

        node.on_request = switch
        header = call("eth_getBlockByNumber", "0x8", False)
        _, answers = await post(node, [header, call("eth_getLogs", {"fromBlock": "0x8", "toBlock": "0x8"}), header])
        hashes = [answers[0]["result"]["hash"], answers[1]["result"][0]["blockHash"], answers[2]["result"]["hash"]]
        assert hashes == [chain.main[8].hex, chain.side[8].hex, chain.side[8].hex]


@pytest.mark.parametrize(
    ("fault", "status", "expected"),
    [
        ("429", 429, {"jsonrpc": "2.0", "id": None, "error": {"code": 429, "message": "Too Many Requests"}}),
        ("500", 500, "Internal Server Error"),
        ("html", 200, "<html><body>Sign in</body></html>"),
        ("{}", 200, {}),
        ("null", 200, [{"jsonrpc": "2.0", "id": n, "result": None} for n in (1, 2)]),
        ("no id", 200, [{"jsonrpc": "2.0", "result": "0x7a69"}, {"jsonrpc": "2.0", "result": "0xa"}]),
        ("shuffled", 200, [{"jsonrpc": "2.0", "id": n, "result": r} for n, r in ((2, "0xa"), (1, "0x7a69"))]),
        ("short", 200, [{"jsonrpc": "2.0", "id": 1, "result": "0x7a69"}]),
        ("cut", 200, '[{"jsonrpc":"2.0","id":1,"result":"0x7a69"}'),
        (Say(503, "[]"), 503, []),
    ],
)
async def test_the_next_request_fails_as_told_and_the_one_after_does_not(
    chain: Chain, fault: Fault, status: int, expected: Any
) -> None:
    batch = [call("eth_chainId", number=1), call("eth_blockNumber", number=2)]
    async with SimNode(chain.tree, chain.tip) as node:
        node.fail_next = [fault]
        said, body = await post(node, batch)
        assert said == status
        assert expected.startswith(body) if fault == "cut" else body == expected
        assert (await post(node, batch))[1][1]["result"] == "0xa"


async def test_connections_are_dropped_hung_slow_or_refused(chain: Chain) -> None:
    asked = call("eth_blockNumber")
    async with SimNode(chain.tree, chain.tip) as node:
        node.fail_next = ["drop"]
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(node, asked)
        node.fail_next = ["hang"]
        timeout = aiohttp.ClientTimeout(total=None, sock_read=0.05)  # of an answer, once it was asked for
        async with aiohttp.ClientSession(timeout=timeout) as session:
            with pytest.raises(TimeoutError):
                await session.post(node.url, json=asked)
            await eventually(lambda: not node.fail_next, "the request at the node")
            node.latency = 3600
            with pytest.raises(TimeoutError):
                await session.post(node.url, json=asked)
        node.latency, node.offline = 0, True
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(node, asked)
        node.offline, node.max_batch = False, 1
        assert (await post(node, [asked, asked]))[1]["error"]["code"] == -32600
        await node.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(node, asked)
        await node.start()
        assert (await post(node, asked))[1]["result"] == "0xa"


async def test_heads_are_announced_with_the_whole_new_branch(chain: Chain) -> None:
    async with (
        SimNode(chain.tree, chain.main[6].hash) as node,
        aiohttp.ClientSession() as session,
        session.ws_connect(node.ws_url) as socket,
    ):
        await socket.send_json(call("eth_subscribe", "newHeads"))
        assert (await socket.receive_json())["result"] == "0x1"
        await node.subscribed()

        async def heard(count: int) -> list[str]:
            return [(await socket.receive_json())["params"]["result"]["hash"] for _ in range(count)]

        node.head = chain.tip
        assert await heard(4) == [b.hex for b in chain.main[7:]]
        node.head = chain.side_tip
        assert await heard(1) == [chain.side[8].hex]
        node.mute = True
        node.head = chain.tip
        node.mute, node.lag = False, 1
        assert await heard(1) == [chain.main[9].hex]
        node.lag = 0
        assert await heard(1) == [chain.main[10].hex]
        await socket.send_json(call("eth_blockNumber"))
        assert (await socket.receive_json())["result"] == "0xa"
        node.refuses_subscriptions = True
        await socket.send_json(call("eth_subscribe", "newHeads"))
        assert (await socket.receive_json())["error"]["code"] == -32601
        await node.close_sockets()
        assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


def test_a_node_in_a_thread_serves_callers_that_block(chain: Chain) -> None:
    def head() -> Any:
        body = json.dumps(call("eth_blockNumber")).encode()
        request = urllib.request.Request(node.url, body, {"Content-Type": "application/json", "Connection": "close"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())["result"]

    with ThreadedNode(chain.tree, chain.tip) as node:
        assert head() == "0xa"
        node.head = chain.side_tip
        assert head() == "0x8"
        node.down()
        with pytest.raises(urllib.error.URLError):
            head()
        node.up()
        assert head() == "0x8"
