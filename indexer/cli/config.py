"""`reya-indexer config check|show`: validate or print a deployment's configuration."""

from __future__ import annotations

import json
from typing import Any

import click

from indexer import config
from indexer.cli.options import chain_option, json_option
from indexer.cli.session import external_url
from indexer.runtime import secrets


@click.group("config", epilog="\b\nExample:\n  reya-indexer config check --chain cronos")
def config_group() -> None:
    """Check or show a deployment's configuration."""


@config_group.command("check", epilog="\b\nExample:\n  reya-indexer config check --chain ./my-deployment.toml")
@chain_option
def check(chain: str) -> None:
    """Validate the TOML file, its ABIs, and the endpoint variables.

    On an error, exits with 10 and names the file, the key, and the remedy.
    """
    deployment = config.load(chain)
    for kind in ("RPC", "WS"):
        deployment.endpoints(kind)
    events = sum(len(c.events) for c in deployment.contracts)
    click.echo(
        f"{deployment.path}: good: chain {deployment.chain_id}, {len(deployment.contracts)} contracts, {events} events"
    )


@config_group.command("show", epilog="\b\nExample:\n  reya-indexer config show --chain reya --json")
@chain_option
@json_option
def show(chain: str, as_json: bool) -> None:
    """Show the settings in effect, with secrets redacted. Includes endpoints from the environment."""
    d, database = config.load(chain), external_url()
    shown: dict[str, Any] = {
        "file": str(d.path),
        "name": d.name,
        "chain_id": d.chain_id,
        "start_block": d.start_block,
        "finality_depth_blocks": d.finality_depth,
        "poll_interval_seconds": d.poll_interval,
        "max_blocks": d.max_blocks,
        "attest": d.attest.enabled,
        "attest_rps": d.attest.rps,
        "attest_recent_blocks": d.attest.recent_blocks,
        "rpc_timeout_seconds": d.rpc_timeout,
        "rps": d.rps,
        "budgets_per_second": dict(d.budgets),
        "rpc": [secrets.redact(u) for u in d.endpoints("RPC")],
        "ws": [secrets.redact(u) for u in d.endpoints("WS")],
        "database": secrets.redact(database) if database else "embedded",
        "digest": d.digest,
    }
    contracts: list[dict[str, Any]] = [
        {"name": c.name, "address": c.address, "abis": list(c.abis), "erc20": c.erc20,
         "events": [f"0x{e.topic0.hex()} {e.signature}" for e in c.events]}
        for c in d.contracts
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps(shown | {"contracts": contracts}, indent=2, ensure_ascii=False))
        return
    for key, value in shown.items():
        click.echo(f"{key:22} {', '.join(value) if isinstance(value, list) else value}")
    for contract in contracts:
        click.echo(f"contract {contract['name']:28} {contract['address']}  {', '.join(contract['abis'])}")
