"""Every broken configuration gets one line that names file, key and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from indexer.cli.main import cli
from indexer.config import Attest, load
from indexer.errors import ConfigError
from indexer.runtime.secrets import redact

GOOD = """
name = "mine"
chain_id = 5
env_prefix = "MINE"
[[contract]]
name = "token"
address = "0xAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
abis = ["erc20"]
erc20 = true
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("name", "chain_id"), [("reya", 1729), ("cronos", 89346162), ("devnet", 89346162), ("arbitrum", 42161)]
)
def test_the_shipped_deployments_load(name: str, chain_id: int) -> None:
    deployment = load(name)
    assert deployment.chain_id == chain_id
    assert deployment.name == name
    assert deployment.start_block == 0
    assert deployment.poll_interval <= 0.5
    assert all(c.address == c.address.lower() for c in deployment.contracts)


def test_defaults_and_lower_case_addresses(tmp_path: Path) -> None:
    deployment = load(write(tmp_path, GOOD))
    assert deployment.contracts[0].address == "0x" + "a" * 40
    assert deployment.attest == Attest(
        enabled=True, rps=4.0, recent_blocks=1_000_000, head=True, head_rps=20.0, before_commit=False
    )
    assert (deployment.max_blocks, deployment.finality_depth, deployment.poll_interval) == (2000, 20_000, 0.25)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('name = "mine"', 'name = "Mine!"', "name"),
        ("chain_id = 5", 'chain_id = "5"', "chain_id"),
        ("chain_id = 5", "chain_id = true", "chain_id"),
        ("chain_id = 5", "chain_id = 5\nstart_blok = 3", "start_blok"),
        ("chain_id = 5", "chain_id = 5\nstart_block = -1", "start_block"),
        ("erc20 = true", "erc20 = true\n[attest]\nrps = 0", "attest.rps"),
        ("erc20 = true", "erc20 = true\n[attest]\nenabled = 1", "attest.enabled"),
        ("erc20 = true", "erc20 = true\n[attest]\nrecent = 5", "attest.recent"),
        ("erc20 = true", "erc20 = true\n[attest]\nhead_rps = 0", "attest.head_rps"),
        ("erc20 = true", "erc20 = true\n[attest]\nbefore_commit = true\nenabled = false", "attest.before_commit"),
        ("0xAAAA", "0xZZZZ", "contract[0].address"),
        ("0xAAAAA", "0xAAAA", "contract[0].address"),
        ('["erc20"]', '["nonsense"]', "contract[0].abis"),
        ('["erc20"]', "[]", "contract[0].abis"),
        ('["erc20"]', '["proxy"]', "contract[0].abis"),
        ('["erc20"]', '["erc20", "account_nft"]', "contract[0].abis"),
        ('["erc20"]', '["erc20", "erc20"]', "contract[0].abis"),
        ("erc20 = true", "erc20 = true\nstart = 1", "contract[0].start"),
        ("erc20 = true", "erc20 = true\n[polling]\ninterval = 0", "polling.interval"),
        ("erc20 = true", "erc20 = true\n[finality]\ndepht = 5", "finality.depht"),
        ("erc20 = true", "erc20 = true\n[rpc]\ntimeout = 0", "rpc.timeout"),
        ("erc20 = true", "erc20 = true\n[rpc]\nrps = 0", "rpc.rps"),
        ("erc20 = true", "erc20 = true\n[budget]\nattest = true", "budget.attest"),
        ("erc20 = true", "erc20 = true\n[budget]\natest = 5", "budget.atest"),
        ('[[contract]]', '[[contracts]]', "contracts"),
    ],
)  # fmt: skip
def test_a_broken_file_names_itself_the_key_and_a_remedy(tmp_path: Path, old: str, new: str, key: str) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert path in caught.value.message
    assert f"{key}:" in caught.value.message
    assert caught.value.remedy
    assert caught.value.exit_code == 10


def test_what_requests_may_cost_is_read_and_shown(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "[rpc]\ntimeout = 5\nrps = 50\n[budget]\nattest = 0.5\nbackfill = 20\n")
    deployment = load(path)
    assert (deployment.rpc_timeout, deployment.rps) == (5.0, 50.0)
    assert dict(deployment.budgets) == {"backfill": 20.0, "attest": 0.5}
    shown = json.loads(CliRunner().invoke(cli, ["config", "show", "--json", "--chain", path]).stdout)
    assert shown["budgets_per_second"] == {"backfill": 20.0, "attest": 0.5} and shown["rps"] == 50


def test_two_contracts_of_one_address_and_event_are_refused(tmp_path: Path) -> None:
    twice = GOOD + GOOD[GOOD.index("[[contract]]") :]
    with pytest.raises(ConfigError, match=r"contract\[1\]\.abis: two entries for address 0xaaaa"):
        load(write(tmp_path, twice))


def test_an_abi_without_events_and_broken_toml_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text(json.dumps([{"type": "function", "name": "f", "inputs": []}]))
    with pytest.raises(ConfigError, match="contains no event"):
        load(write(tmp_path, GOOD.replace('["erc20"]', '["empty"]')))
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(write(tmp_path, "name = "))
    with pytest.raises(ConfigError, match="no deployment named"):
        load("nowhere")


def test_secrets_never_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_RPC_URL", "https://user:pass@node.example:8545/v2/KEY?token=T, http://b")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@db/x")
    result = CliRunner().invoke(cli, ["config", "show", "--json", "--chain", write(tmp_path, GOOD)])
    shown = json.loads(result.stdout)
    assert shown["rpc"] == ["https://node.example:8545/…", "http://b"]
    for secret in ("user:pass", "KEY", "token=T", "secret"):
        assert secret not in result.stdout.replace(str(tmp_path), "")
    monkeypatch.setenv("MINE_RPC_URL", "ftp://u:pw@x")
    result = CliRunner().invoke(cli, ["config", "check", "--chain", write(tmp_path, GOOD)])
    assert isinstance(result.exception, ConfigError)
    assert "pw" not in str(result.exception)
    assert redact("not a url at all") == "<not a URL>"


def test_a_mistyped_checksum_address_is_refused(tmp_path: Path) -> None:
    good = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # the example of EIP-55
    named = GOOD.replace("0xAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", good)
    assert load(write(tmp_path, named)).contracts[0].address == good.lower()
    with pytest.raises(ConfigError, match=r"contract\[0\]\.address.*EIP-55"):
        load(write(tmp_path, named.replace("0x5aAeb", "0x5aaeb")))
