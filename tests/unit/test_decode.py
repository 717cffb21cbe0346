"""`decode`: our ABIs against eth-abi's own reading of real logs, and every way in which a line can be odd."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from eth_abi.abi import decode, encode
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from indexer.cli.main import cli
from indexer.config import load
from indexer.decode.abi import load_abi
from indexer.decode.registry import Registry
from indexer.errors import DecodeMismatchError
from indexer.runtime.resources import data_dir

EMITS = Path(__file__).parents[1] / "data" / "reya_cronos_emits.jsonl"
CORE = "0xa763b6a5e09378434406c003dae6487fbbdc1a80"
PERP = "0x27e5cb712334e101b3c232eb0be198baaa595f5f"


def run(tmp_path: Path, lines: list[Any], *flags: str, chain: str = "reya") -> tuple[int, list[dict[str, Any]], str]:
    file = tmp_path / "logs.jsonl"
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    result = CliRunner().invoke(cli, ["decode", "--chain", chain, "--file", str(file), *flags])
    code = getattr(result.exception, "exit_code", result.exit_code)
    return code, [json.loads(x) for x in result.stdout.splitlines()], str(result.exception or "")


def flat(value: Any) -> Any:
    """Our output without its names: what eth-abi's tuples look like as text."""
    return [flat(v) for v in value.values()] if isinstance(value, dict) else value


def text(value: Any) -> Any:
    if isinstance(value, bool | str):
        return value.lower() if isinstance(value, str) and re.fullmatch("0x[0-9a-fA-F]{40}", value) else value
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return [text(v) for v in value] if isinstance(value, tuple | list) else str(value)


def test_real_cronos_emits_decode_as_eth_abi_reads_them(tmp_path: Path) -> None:
    lines = EMITS.read_text().splitlines()
    code, out, _ = run(tmp_path, list(lines), chain="cronos")
    assert code == 0
    assert len(out) == len(lines) == 27
    signatures = re.compile(r"\w+\((.*)\)")
    known = 0
    for line, got in zip(lines, out, strict=True):
        log = json.loads(line)
        assert got["address"] == log["address"].lower()
        assert got["topic0"] == log["topics"][0]
        if got["event"] is None:
            assert got["topic0"] == "0xa0ae033241c89a697860c53443bda5cb5698bc5d44ce65c12a798f9cd97eb7cb"
            assert got["reason"] == "unknown topic"
            continue
        known += 1
        assert "0x" + keccak(got["signature"].encode()).hex() == log["topics"][0]
        inside = signatures.fullmatch(got["signature"])
        assert inside
        event = Registry(load("cronos").contracts).find(got["address"], bytes.fromhex(log["topics"][0][2:]))
        assert event
        plain = [p.type for p in event.params if not p.indexed]
        topics = [p.type for p in event.params if p.indexed]
        data = iter(decode(plain, bytes.fromhex(log["data"][2:])))
        words = iter(decode([t], bytes.fromhex(w[2:]))[0] for t, w in zip(topics, log["topics"][1:], strict=True))
        expected = [text(next(words) if p.indexed else next(data)) for p in event.params]
        assert [flat(v) for v in got["args"].values()] == expected
    assert known == 25


def test_every_shipped_abi_of_the_deployments_loads_and_v3_decodes_in_both_variants() -> None:
    events = load_abi(data_dir("abis") / "passive_perp_execution_v3.json")
    assert sorted(e.topic0.hex() for e in events) == [
        "3241b27e0f195bcdee369c35b4949b4dc7357380ca69e20b51e4b17d00b6fabe",
        "805bcf36031208434c504ebc1d666e2276650aa2314a6c38d6ae21b42b543f9b",
    ]
    position = (-5, 7, (1, 2), (-3, 4, 5), -6, 8)
    for event in events:
        payload: tuple[Any, ...] = (
            (10**18, (1, 2, 3, 4), 5, 6, 1, *[position] * 4, "0x" + "aB" * 20, "0x" + "cd" * 20, 1, 2, 3, 4)
        )  # fmt: skip
        if event.signature.endswith("bytes))"):
            payload = (*payload, b"\x01\x02")
        types = [p.type for p in event.params if not p.indexed]
        word = (9).to_bytes(32, "big")
        args = event.decode([event.topic0, word, word, word], encode(types, [11, 12, 13, payload]))
        assert args["payload"]["fees"] == {
            "protocolFeeCredit": 1, "referrerFeeCredit": 2, "takerRebateCredit": 3, "poolFeeCredit": 4,
        }  # fmt: skip
        assert args["payload"]["accountPositionAfter"]["trackers"]["fundingValue"] == -3
        assert args["payload"]["accountSigner"] == "0x" + "ab" * 20
        assert args["counterpartyAccountId"] == 12


def test_lines_that_cannot_be_decoded_say_why_and_do_not_fail_the_command(tmp_path: Path) -> None:
    owner = "0x5e175266146888e07325bd82435c137b9f1d3ddc5511e9f07e007248066c7c9d"
    one = "0x" + "00" * 31 + "01"
    lines = [
        {"address": CORE, "topics": [], "data": "0x"},
        {"address": CORE, "topics": [owner, one], "data": one},
        {"address": CORE, "topics": [owner, one, one], "data": "0x00"},
        {"address": CORE, "topics": [owner, one, "0x" + "ff" * 32], "data": one},
        {"address": PERP, "topics": [owner, one, one], "data": one},
        {"address": "0x" + "12" * 20, "topics": [owner, one, one], "data": one},
        {"address": CORE.upper().replace("0X", "0x"), "topics": [owner, one, one], "data": one},
    ]
    code, out, _ = run(tmp_path, lines)
    assert code == 0
    assert [o["event"] for o in out] == [None] * 6 + ["AccountOwnerUpdated"]
    reasons = [o["reason"] for o in out[:6]]
    assert reasons[0] == "no topics"
    assert "3 topics" in reasons[1]
    assert all("does not fit" in r for r in reasons[2:4])
    assert reasons[4:] == ["unknown topic", "address is not watched"]
    assert out[6]["args"] == {"accountId": "1", "newOwner": "0x" + "00" * 19 + "01", "blockTimestamp": "1"}


def test_any_address_tells_erc20_from_erc721_by_the_number_of_topics(tmp_path: Path) -> None:
    transfer = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    one = "0x" + "00" * 31 + "01"
    lines = [
        {"address": "0x" + "12" * 20, "topics": [transfer, one, one], "data": "0x" + "ff" * 32},
        {"address": "0x" + "12" * 20, "topics": [transfer, one, one, one], "data": "0x"},
        {"address": "0x" + "12" * 20, "topics": [transfer, one], "data": "0x"},
    ]
    code, out, _ = run(tmp_path, lines, "--any-address", chain="arbitrum")
    assert code == 0
    assert out[0]["args"]["value"] == str(2**256 - 1)
    assert out[1]["args"]["tokenId"] == "1"
    assert out[2]["event"] is None


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "5", "{}", '{"address": "0x1", "topics": [], "data": "0x"}',
     '{"address": "0x' + "1" * 40 + '", "topics": ["0x12"], "data": "0x"}',
     '{"address": "0x' + "1" * 40 + '", "topics": {}, "data": "0x"}',
     '{"address": "0x' + "1" * 40 + '", "topics": [], "data": "0x123"}'],
)  # fmt: skip
def test_a_line_that_is_not_a_log_ends_with_code_20_and_its_number(tmp_path: Path, line: str) -> None:
    code, _, error = run(tmp_path, [{"address": CORE, "topics": [], "data": "0x"}, line])
    assert code == 20
    assert "line 2" in error


@given(st.binary(max_size=600), st.lists(st.binary(min_size=32, max_size=32), max_size=3))
def test_foreign_bytes_never_raise_anything_but_a_mismatch(data: bytes, words: list[bytes]) -> None:
    for path in data_dir("abis").glob("*.json"):
        for event in load_abi(path):
            try:
                args = event.decode([event.topic0, *words], data)
            except DecodeMismatchError as mismatch:
                assert str(mismatch)
            else:
                assert list(args) == [p.name for p in event.params]
