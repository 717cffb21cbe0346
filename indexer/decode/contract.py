"""One TOML per deployment, validated into frozen, typed settings.

Every error is a ConfigError that names the file, the key and the remedy. Endpoints and secrets are not part of a file:
they come from the environment (`<env_prefix>_RPC_URL`, `<env_prefix>_WS_URL`) or from flags.
"""

from __future__ import annotations

from dataclasses import dataclass

from indexer.decode.abi import EventAbi


@dataclass(frozen=True, slots=True)
class Contract:
    """A watched contract: lower-case 0x address, its event ABIs, whether its Transfers are ERC-20 transfers, whether
    `blockTimestamp` in its events is their block's time (`stamps`), and the account that is on the other side of its
    match orders where their transaction does not name one (`pool_account`)."""

    name: str
    address: str
    abis: tuple[str, ...]
    events: tuple[EventAbi, ...]
    erc20: bool = False
    stamps: bool = False
    pool_account: int | None = None
