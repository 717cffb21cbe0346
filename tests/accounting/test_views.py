"""`check --rpc-url` and `enrich` against contracts that answer: right, drifted, reverting, without state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from indexer.cli import check as cli
from indexer.cli import enrich as enriching
from indexer.cli.report import Report, report_json
from indexer.contracts.enrich import KINDS
from indexer.db.connection import connection
from indexer.errors import RefusedError, StateUnavailableError
from indexer.store import enrichment
from tests.accounting.contracts import ContractNode
from tests.accounting.machine import DEVNET, History
from tests.chaos.databases import Databases
from tests.chaos.truth import checked
from tests.support.daemon import run
from tests.support.simchain.refusals import Refusal

STEPS = [
    ("amm_order", 0, 0), ("amm_order", 2, 9), ("book_order", 1, 1), ("stated_match_order", 4, 6), ("elsewhere", 0, 0),
    ("elsewhere", 0, 5), ("elsewhere", 0, 2), ("price_and_funding", 0, 15), ("deleveraging", 0, 6),
    ("equal_fills", 5, 3), ("amm_order", 0, 3), ("bare_match_order", 2, 30), ("ownership", 3, 0),
    ("price_and_funding", 1, 9), ("amm_order", 0, 12),
]  # fmt: skip


@pytest.fixture
async def history(databases: Databases) -> AsyncIterator[History]:
    """Followed to its head; what is final is a few blocks below, and had other values."""
    made = History(await databases.make(), 7, ContractNode)
    await made.open()
    try:
        for step in STEPS:
            await made.do(*step)
        await made.do("compare", 0, 0)
        made._finalize(1)
        for step in (("book_order", 3, 3), ("ownership", 0, 0), ("elsewhere", 0, 0), ("amm_order", 0, 3)):
            await made.do(*step)
        await made.do("compare", 0, 0)
        await made.process.stop()
        yield made
    finally:
        await made.close()
        await databases.drop(made.url)


@pytest.fixture
def node(history: History) -> ContractNode:
    assert isinstance(history.node, ContractNode)
    history.node.desks = history.desks
    return history.node


async def command(history: History, *arguments: str, code: int = 0) -> dict[str, Any]:
    """As a user calls it, in a process of its own."""
    done = await asyncio.to_thread(run, *arguments, "--chain", "devnet", "--json", env={"DATABASE_URL": history.url})
    assert done.returncode == code, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout or "{}")
    return answer | {"stderr": done.stderr}


async def enrich(
    history: History, monkeypatch: pytest.MonkeyPatch, *kinds: str, most: int = 1000, restart: bool = False,
    dry_run: bool = False, nodes: Sequence[ContractNode] = (),
) -> dict[str, Any]:  # fmt: skip
    """In this process."""
    monkeypatch.setenv("DATABASE_URL", history.url)
    urls = tuple(node.url for node in nodes) or (history.node.url,)
    options = enriching.EnrichOptions(
        deployment=DEVNET, endpoints=urls, kinds=kinds or list(KINDS), rps=500.0, most=most, restart=restart
    )
    return as_printed(await enriching._enrich(options, dry_run))


async def check(history: History, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In this process: what `check --strict --rpc-url` answers with."""
    monkeypatch.setenv("DATABASE_URL", history.url)
    options = cli.CheckOptions(
        deployment=DEVNET, endpoints=(history.node.url,), sample=10, recompute=False, strict=True, views=100, rps=None
    )
    return as_printed(await cli._check(options))


def as_printed(report: Report) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(report_json(report))
    return answer


async def test_rows_are_what_the_contracts_say_each_drifted_answer_is_found_and_no_answer_is_none(
    history: History, node: ContractNode, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    clean = await check(history, monkeypatch)
    assert clean["views"]["block"] == history.final < history.tip.number
    assert clean["views"]["hash"] == history.tree.ancestor(history.tip.hash, history.final).hex
    asked = {name for name, _ in node.asked}
    assert asked == {"getAccountOwner", "getCollateralInfo", "getUpdatedPositionInfo"}
    assert clean["views"]["compared"] == len(node.asked) > 15 and clean["views"]["unanswered"] == []
    assert clean["positions"]["sessions"] > 0 and clean["positions"]["markets"] == 2
    node.order_book = True  # the struct's further fields change nothing
    assert (await check(history, monkeypatch))["drifts"] == []

    def other(n: int, value: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
        return lambda values: [value(v) if k == n else v for k, v in enumerate(values)]

    drifted = {
        "owners": ("getAccountOwner", other(0, lambda owner: "0x" + "11" * 20)),
        "collateral": ("getCollateralInfo", other(0, lambda net: net + 1)),
        "positions": ("getUpdatedPositionInfo", other(0, lambda base: base + 10)),
    }
    for kind, (function, answer) in drifted.items():
        node.drift = {function: answer}
        found = await check(history, monkeypatch)
        assert {d["check"] for d in found["drifts"]} == {f"{kind} as the contracts say"}
    node.drift = {"getUpdatedPositionInfo": other(1, lambda realized: realized + 10**6)}
    found = await command(history, "check", "--rpc-url", node.url, code=33)
    assert all("realized_pnl" in d["detail"] for d in found["drifts"]) and found["drifts"]
    conn = await asyncpg.connect(history.url)
    kept = await conn.fetch('SELECT DISTINCT "check" FROM indexer.drift')
    await conn.close()
    assert {row["check"] for row in kept} == {f"{kind} as the contracts say" for kind in drifted}
    node.drift = {}
    node.reverts = {"getUpdatedPositionInfo"}
    done = await check(history, monkeypatch)
    assert done["drifts"] == [] and all("reverted" in line for line in done["views"]["unanswered"])
    assert done["views"]["unanswered"] and done["views"]["compared"] > 0
    node.stateless = True
    done = await command(history, "check", "--rpc-url", node.url, code=32)
    assert "does not serve the state of block" in done["stderr"] and "archive" in done["stderr"]


ENRICHED = ("market_configuration", "global_fee_parameters", "account_owner_configuration", "fee_tier_parameters")


async def public_rows(history: History) -> dict[str, list[dict[str, Any]]]:
    async with connection(history.url) as conn:
        return {name: [dict(r) for r in await conn.fetch(f"SELECT * FROM {name} ORDER BY 1")] for name in ENRICHED}


async def test_enrich_reads_at_the_final_block_and_marks_every_row_with_it(
    history: History, node: ContractNode, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    async with connection(history.url) as conn:
        await conn.execute(
            "INSERT INTO account_owner_configuration (owner_address, tier_id)"
            " SELECT new_owner, 77 FROM account_owner_updated_snapshot ORDER BY account_id LIMIT 1"
        )
    dry = await enrich(history, monkeypatch, dry_run=True)
    assert (dry["targets"]["markets"], dry["block"], node.asked) == (2, history.final, []) and dry["calls"] > 5
    done = await command(history, "enrich", "--rpc-url", node.url, "--rps", "500")
    assert done["left"] == 0 and done["unanswered"] == [] and len(done["kept"]) == 1
    assert done["calls"] == len(node.asked) >= dry["calls"]
    rows = await public_rows(history)
    time = history.tree.ancestor(history.tip.hash, history.final).timestamp
    for name in ENRICHED:
        ours = [row for row in rows[name] if row["block_number"] is not None]
        assert ours and {(r["block_number"], r["block_timestamp"], r["unique_id"]) for r in ours} == {
            (history.final, time, None)
        }
    (first, second) = rows["market_configuration"]
    assert (first["risk_matrix_index"], first["oracle_node_id"], first["mtm_window"]) == (1000, "0x" + "01" * 32, 1004)
    assert (second["dutch_config_lambda"], second["slippage_params_beta"], second["price_spacing"]) == (
        2005,
        2008,
        2011,
    )
    assert (second["max_p_slippage"], second["price_spread"], second["volatility_index_multiplier"]) == (
        2014,
        2016,
        2017,
    )
    (fees,) = rows["global_fee_parameters"]
    assert (fees["referee_discount"], fees["vltz_discount"], fees["pool_rebate"]) == (10**16, 4 * 10**16, None)
    (others,) = [row for row in rows["account_owner_configuration"] if row["block_number"] is None]
    assert (others["tier_id"], others["og_status"]) == (77, None)  # the application's row stays as it was
    assert {row["tier_id"] for row in rows["fee_tier_parameters"]} <= {0, 1, 2, 77}
    async with connection(history.url) as conn:
        own = await conn.fetch("SELECT table_name, key, \"values\" FROM indexer.enrichment WHERE table_name <> ALL($1)",
                               list(ENRICHED))  # fmt: skip
    told = {(row["table_name"], row["key"]): json.loads(row["values"]) for row in own}
    assert any(table == "token" and values["decimals"] == 6 for (table, _), values in told.items())
    bare = [values for (table, _), values in told.items() if table == "position"]
    assert bare and all(int(values["realized_pnl"]) or True for values in bare)


async def test_enrich_goes_on_where_its_budget_ended_and_what_others_changed_stays(
    history: History, node: ContractNode, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    first = await enrich(history, monkeypatch, "owners", most=2)
    assert (first["calls"], first["written"], first["resumed"]) == (2, {"account_owner_configuration": 2}, False)
    assert first["left"] > 0
    await history.do("amm_order", 0, 0)
    history._finalize(0)  # an unfinished run stays at its block
    await history._follow()
    await history.process.stop()
    second = await enrich(history, monkeypatch, "owners")
    assert (second["resumed"], second["block"], second["left"]) == (True, first["block"], 0)
    assert second["calls"] == first["left"] and len(node.asked) == first["calls"] + second["calls"]
    again = await enrich(history, monkeypatch, "owners")
    assert (again["resumed"], again["block"]) == (False, history.final) and again["kept"] == []
    async with connection(history.url) as conn:
        await conn.execute("UPDATE account_owner_configuration SET og_status = false")
    assert (await enrich(history, monkeypatch, "owners", restart=True))["calls"] == 0  # all was read at this block
    await history.do("book_order", 0, 0)
    history._finalize(0)
    await history._follow()
    third = await enrich(history, monkeypatch, "owners")
    assert third["written"] == {} and len(third["kept"]) == again["calls"]


async def test_projecting_again_and_check_leave_enriched_rows_alone_and_a_rollback_takes_them(
    history: History, node: ContractNode, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    await enrich(history, monkeypatch, "owners", "fees")
    before = await public_rows(history)
    assert before["account_owner_configuration"]
    await history.do("reproject", 0, 0)
    await history.do("compare", 0, 0)  # with what `check --recompute` finds
    await history.process.stop()
    assert await public_rows(history) == before
    async with connection(history.url) as conn:
        await conn.execute(
            "UPDATE indexer.enrichment SET block_hash = '\\x00' WHERE table_name = 'global_fee_parameters'"
        )
    assert "what was enriched is of a block of the chain" in "".join(await checked(history.url, DEVNET))
    async with connection(history.url) as conn:
        await enrichment.forget_above(conn, history.final)
        assert await public_rows(history) == before
        await enrichment.forget_above(conn, history.final - 1)
    assert not any((await public_rows(history)).values())


async def test_what_cannot_be_asked_or_kept_is_told_and_all_else_is_read(
    history: History, node: ContractNode, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    async with connection(history.url) as conn:
        await conn.execute(
            "INSERT INTO account_owner_configuration (owner_address, tier_id) VALUES ('0x1', -1);"
            " ALTER TABLE global_fee_parameters ADD CONSTRAINT small CHECK (og_discount > 5)"
        )

    def out_of_gas(_: list[Any]) -> list[Any]:
        raise Refusal(-32000, "out of gas")

    node.drift = {"name": lambda _: ["a\0b"], "getPoolMarginBalance": out_of_gas}
    done = await enrich(history, monkeypatch)
    tier, fees, *pools = sorted(done["unanswered"], key=lambda line: ("pool" in line, "fee_tier" not in line))
    assert 'fee_tier_parameters {"tier_id":-1}: getFeeTierParameters: cannot be called' in tier
    assert 'global_fee_parameters {"id":1}: cannot be stored: ' in fees and "small" in fees
    assert all("out of gas" in line for line in pools)
    assert done["left"] == 0 and {"market_configuration", "fee_tier_parameters", "token"} <= set(done["written"])
    async with connection(history.url) as conn:
        names = await conn.fetch("SELECT \"values\" ->> 'name' FROM indexer.enrichment WHERE table_name = 'token'")
        assert {row[0] for row in names} == {"a\ufffdb"}
        await conn.execute("ALTER TABLE market_configuration DROP COLUMN price_spacing; DELETE FROM indexer.enrichment")
    with pytest.raises(RefusedError, match=r"market_configuration: .*price_spacing.*--adopt --check"):
        await enrich(history, monkeypatch, "markets")


@pytest.mark.parametrize("code", [-32015, -32000, 3, 0])
async def test_a_view_that_is_refused_in_words_of_its_own_does_not_end_the_run(
    code: int, history: History, node: ContractNode, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Whether the view or the state of the block is missing shows another call, not the words."""

    def refuse(_: list[Any]) -> list[Any]:
        raise Refusal(code, "VM execution error.")

    node.drift = {"getPoolMarginBalance": refuse}
    done = await enrich(history, monkeypatch)
    assert done["unanswered"] and all("VM execution error" in line for line in done["unanswered"])
    assert done["left"] == 0 and {"market_configuration", "fee_tier_parameters", "token"} <= set(done["written"])


async def test_calls_asked_in_vain_count_and_who_waits_for_old_state_is_told_how_to_begin_anew(
    history: History, node: ContractNode, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    stateless = ContractNode(history.tree, history.tip.hash, node.chain_id)
    async with stateless:
        stateless.stateless = True
        done = await enrich(history, monkeypatch, "owners", most=2, nodes=(stateless, node))
        assert (done["calls"], len(node.asked)) == (2 + 2, 2) and done["left"] > 0
        with pytest.raises(StateUnavailableError) as caught:
            await enrich(history, monkeypatch, "owners", nodes=(stateless,))
        assert "--restart" in str(caught.value)
        with pytest.raises(StateUnavailableError) as caught:
            await enrich(history, monkeypatch, "owners", restart=True, nodes=(stateless,))
        assert "--restart" not in str(caught.value)


async def test_nothing_is_kept_of_a_block_that_may_have_been_taken_back(
    history: History, node: ContractNode, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    async with connection(history.url) as conn:
        run = await enrichment.pin_block(conn)
        await conn.execute("UPDATE indexer.epoch SET value = value + 1")
        with pytest.raises(RefusedError, match=r"healed in the meantime.*same command"):
            await enrichment.save(conn, "fee_tier_parameters", {"tier_id": 1}, {"taker_fee": 1}, run)
    assert not any((await public_rows(history)).values())
    assert (await enrich(history, monkeypatch, "tiers", "owners"))["written"]
