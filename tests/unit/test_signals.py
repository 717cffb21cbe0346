"""What the daemon tells of itself: metrics and their page, the status page, and answers whatever the database does."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from indexer import config
from indexer.chain.types import Header
from indexer.ops import http, live_status, metrics
from indexer.ops.live_status import LiveStatus
from indexer.ops.metric_catalog import CATALOG, PREFIX, PROCESS
from indexer.rpc.pool import Pool
from indexer.runtime.progress import DaemonProgress, Histogram, wait_name
from tests.support.waiting import PATIENCE

STORED: dict[str, Any] = {
    "attested": {"cross-checked": {"up_to": 80, "newest": [85, 88]}, "proven": {"up_to": None, "newest": None}},
    "coverage": [{"contract": "core", "gaps": [[5, 6], [9, 9]]}, {"contract": "core", "gaps": [[1, 1]]}],
    "incidents_open": {"unknown_topic": 2},
    "undecoded_logs": {"unknown topic": 7},
    "upgrades": [
        {"contract": "core", "count": 2, "block_time": 500},
        {"contract": "core", "count": 1, "block_time": 400},
    ],
}


def told(urls: tuple[str, ...] = ("http://n.example/KEY-ONE", "http://n.example/KEY-TWO")) -> LiveStatus:
    """A daemon in the middle of its life, with two endpoints of one host."""
    progress = DaemonProgress(head=100, safe=96, finalized=92, ingested=98, projected=90, origin=1, head_time=1_000)
    progress.set_wait("")
    progress.set_wait("a replacement of blocks 5 to 9 that an endpoint serves: pruned")
    progress.looked_at = progress.last_step_at = progress.clock()
    progress.errors["Transient"] = progress.steps["forward"] = progress.rows["orders"] = 3
    progress.step_blocks["forward"].observe(7)
    progress.commit_seconds["forward"].observe(0.02)
    progress.reorg_depth.observe(3)
    progress.stuck["poll"], progress.found_stuck["poll"] = "no answer", 1
    gauges = progress.attest
    gauges.state, gauges.newest["proven"], gauges.blocks["proven"] = "", 88, 4
    gauges.blamed["http://n.example/…"] = 1
    progress.head_proof.state, progress.head_proof.newest, progress.head_proof.unproven = "proving", 97, 1
    made = LiveStatus(config.load("devnet"), progress, Pool(urls, 1, budgets={"attest": 5}))
    for reader in made.pool.readers:
        reader.endpoint.requests = 5
        reader.endpoint.outcomes["eth_getLogs", "ok"] = 4
        reader.endpoint.failed_work["Inconsistent"] = 1
        reader.endpoint.health.answered(made.pool.clock(), 0.25)
        made.pool.observe_head(reader.name, Header(100, bytes(32), bytes(32), 1_000))
    made.pool.set_aside(made.pool.readers[-1].name, "left out log 1", "omitting")
    made.stored |= STORED
    made.read_at = time.monotonic()
    return made


def samples(made: LiveStatus) -> dict[str, Any]:
    text = metrics.render(metrics.registry(made)).decode()
    found = [s for family in text_string_to_metric_families(text) for s in family.samples]
    keys = Counter((s.name, tuple(sorted(s.labels.items()))) for s in found)
    assert not [key for key, count in keys.items() if count > 1], "Prometheus refuses a scrape with a doubled sample"
    return {
        f"{s.name}{json.dumps(s.labels, sort_keys=True, ensure_ascii=False) if s.labels else ''}": s.value
        for s in found
    }


def test_every_metric_of_the_catalogue_is_collected_and_no_other() -> None:
    text = metrics.render(metrics.registry(told())).decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    ours = {name.removeprefix(PREFIX): f for name, f in families.items() if name.startswith(PREFIX)}
    assert set(ours) == set(CATALOG)
    for name, family in ours.items():
        told_of = CATALOG[name]
        assert (family.type, family.documentation) == (told_of.kind, told_of.help)
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(told_of.labels), name
    assert set(PROCESS) == {f.samples[0].name for name, f in families.items() if not name.startswith(PREFIX)}


def test_the_numbers_are_those_of_the_process_and_of_its_last_look_at_the_database() -> None:
    found = samples(told())
    expected = {
        'lag_blocks{"tag": "latest"}': 10, 'lag_blocks{"tag": "safe"}': 6, 'lag_blocks{"tag": "finalized"}': 2,
        'attested_lag_blocks{"grade": "cross-checked"}': 12, 'attested_block{"grade": "cross-checked"}': 80,
        'uncovered_blocks{"contract": "core"}': 4,
        'incidents_open{"kind": "unknown_topic"}': 2, 'undecoded_logs{"reason": "unknown topic"}': 7,
        'proxy_upgrades{"contract": "core"}': 3, 'proxy_upgraded_timestamp_seconds{"contract": "core"}': 500,
        'rpc_requests_total{"endpoint": "http://n.example/…"}': 5,
        'rpc_calls_total{"endpoint": "http://n.example/…", "method": "eth_getLogs", "outcome": "ok"}': 4,
        'waits_total{"name": "a replacement of blocks N to N that an endpoint serves"}': 1,
        'step_blocks_bucket{"kind": "forward", "le": "5"}': 0, 'step_blocks_bucket{"kind": "forward", "le": "10"}': 1,
        "reorg_depth_blocks_sum": 3, 'errors_total{"class": "Transient"}': 3,
    }  # fmt: skip
    assert {name: found[PREFIX + name] for name in expected} == expected
    assert "KEY-" not in json.dumps(found)


def test_what_is_not_known_is_absent_and_not_zero() -> None:
    made = LiveStatus(config.load("devnet"), DaemonProgress(), Pool(("http://n.example",), 1))
    found = samples(made)
    for name in ("attested_lag_blocks", "look_age_seconds", "step_age_seconds", "head_age_seconds"):
        assert PREFIX + name not in found
    assert not [name for name in found if name.startswith((f"{PREFIX}block", f"{PREFIX}lag_blocks"))]
    assert found[f'{PREFIX}state{{"state": "starting"}}'] == 1


def test_a_spread_counts_values_up_to_each_bound() -> None:
    spread = Histogram((1, 2.5))
    for value in (0.5, 1, 2, 3, 9):
        spread.observe(value)
    assert spread.buckets() == [("1", 2), ("2.5", 3), ("+Inf", 5)] and spread.total == 15.5


def test_a_wait_has_one_name_whatever_numbers_and_reasons_are_in_it() -> None:
    assert wait_name("paused: reorg recovery host:7") == "paused"
    assert wait_name("blocks 17 to 19 that are away: why") == "blocks N to N that are away"
    now = [100.0]
    progress = DaemonProgress(clock=lambda: now[0])
    progress.set_wait("the database")
    now[0] = 107.5
    progress.set_wait("")
    assert progress.waits["the database"] == 1 and progress.waited["the database"] == 7.5


def test_the_page_loads_nothing_from_elsewhere_and_makes_no_markup_of_data() -> None:
    page = http.PAGE
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page) and "@import" not in page
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", page)
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", page)  # the policy would refuse them
    assert len(re.findall("<script", page)) == len(re.findall("<style", page)) == 1
    assert "unsafe" not in http.POLICY and http.POLICY.startswith("default-src 'none'")


async def test_every_answer_carries_the_policy() -> None:
    made = told(("http://n.example",))
    made.progress.mode = "halted"
    answers = {"/": 200, "/live": 200, "/ready": 503, "/status": 200, "/metrics": 200, "/x": 404}
    async with TestClient(TestServer(http.application(made))) as client:
        for path, status in answers.items():
            answer = await client.get(path)
            assert answer.status == status, path
            assert answer.headers["Content-Security-Policy"] == http.POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await client.post("/status")).status == 405


async def test_signals_answer_with_the_last_known_values_while_the_database_is_mute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(live_status, "ANSWER_TIMEOUT_S", 0.1)
    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made = told()
    made.read_at, made.url = None, f"postgresql://u:SECRETWORD@127.0.0.1:{port}/x"
    async with server:
        first, second = await asyncio.gather(made.document(), made.document())
        assert first["live"]["database_error"].startswith("no answer within")
        assert second["attested"] == STORED["attested"] and first["head"] == 100
        await made.close()
    made.url = f"postgresql://u:SECRETWORD@127.0.0.1:{port}/x"  # nobody listens now
    monkeypatch.setattr(live_status, "ANSWER_TIMEOUT_S", PATIENCE)
    shown = await made.document()
    assert "127.0.0.1" in shown["live"]["database_error"] and "SECRETWORD" not in json.dumps(shown)
    await made.close()
