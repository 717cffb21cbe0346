"""Configuration: one TOML file per deployment, validated into frozen, typed settings.

Every error is a ConfigError that names the file, the key and the remedy. Endpoints and secrets are not in the file:
they come from the environment (`<env_prefix>_RPC_URL`, `<env_prefix>_WS_URL`) or from flags.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from indexer.decode.abi import EventAbi, load_abi
from indexer.decode.registry import Contract
from indexer.errors import ConfigError
from indexer.projections.version import PROJECTIONS
from indexer.rpc.rate_limit import PURPOSES, RequestPurpose
from indexer.runtime.resources import data_dir
from indexer.runtime.secrets import listed, redact, secret

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
ACCOUNTING = ("core", "passive_perp")  # Names of the contracts whose events move positions.


@dataclass(frozen=True, slots=True)
class Token:
    """Display name and symbol of a token; the events of the chain carry neither."""

    address: str
    name: str
    symbol: str


@dataclass(frozen=True, slots=True)
class Attest:
    """Settings of the daemon's attestation.

    `rps`: maximum rate for each endpoint (requests/s). `recent_blocks`: the newest final blocks are proven, this many
    (blocks); older ones are cross-checked. `head`: blocks above finalized are proven after their commit, at `head_rps`
    (requests/s). `before_commit`: no block is committed before it is proven.
    """

    enabled: bool = True
    rps: float = 4.0
    recent_blocks: int = 1_000_000
    head: bool = True
    head_rps: float = 20.0
    before_commit: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of the change log is kept for slots: `hours` (h), and `megabytes` (1e6 bytes) with its index."""

    hours: int = 24
    megabytes: int = 2_000


@dataclass(frozen=True, slots=True)
class Deployment:
    """Settings of one deployment.

    `finality_depth` (blocks), `max_blocks` (blocks), `poll_interval` (s), `rpc_timeout` (s). `rps`: maximum rate for
    each endpoint (requests/s). `budgets`: maximum rate for each purpose, over all endpoints together (requests/s).
    """

    path: Path
    name: str
    chain_id: int
    env_prefix: str
    start_block: int
    finality_depth: int
    poll_interval: float
    max_blocks: int
    contracts: tuple[Contract, ...]
    tokens: tuple[Token, ...]
    attest: Attest = Attest()
    keep: Keep = Keep()
    rpc_timeout: float = 20.0
    rps: float | None = None
    budgets: tuple[tuple[RequestPurpose, float], ...] = ()

    @property
    def digest(self) -> str:
        """Hash of everything that decides how raw logs are projected.

        It covers contracts, ABIs, ERC-20 marks, tokens and the projections themselves, and changes whenever equal raw
        logs could project to other rows.
        """
        lines = [
            f"{c.address} {int(c.erc20)} {c.pool_account} "
            + ",".join(sorted(f"{e.topic0.hex()}/{e.indexed_count}" for e in c.events))
            for c in self.contracts
        ]
        lines += [f"{t.address} {t.name} {t.symbol}" for t in self.tokens]
        lines.append(f"projections {PROJECTIONS}")
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of all watched contracts, ascending."""
        return tuple(sorted(c.address for c in self.contracts))

    @property
    def accounting(self) -> frozenset[str]:
        """Addresses of the contracts whose events move positions."""
        return frozenset(c.address for c in self.contracts if c.name in ACCOUNTING)

    def endpoints(self, kind: str, flags: Sequence[str] = (), env: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Return the URLs of one kind, "RPC" or "WS", separated by commas or line breaks where they come as a list.

        They are the flags if given, else the list in `<env_prefix>_<kind>_URL` or in the file that
        `<env_prefix>_<kind>_URL_FILE` names. Raises ConfigError for a URL of another scheme or without a host.
        """
        source = list(flags) or [secret(f"{self.env_prefix}_{kind}_URL", env)]
        urls = tuple(url for entry in source for url in listed(entry))
        schemes = ("http", "https") if kind == "RPC" else ("ws", "wss")
        for url in urls:
            if urlsplit(url).scheme not in schemes or not urlsplit(url).hostname:
                raise ConfigError(
                    f"{self.env_prefix}_{kind}_URL: {redact(url)!r} is not a {' or '.join(schemes)} URL",
                    f"Write it as {schemes[0]}://host:port/path",
                )
        return urls


def _checksum_fits(address: str) -> bool:
    from web3 import Web3  # Imported here because it is slow to import, and shipped addresses are lower-case.

    return Web3.is_checksum_address(address)


def config_dir() -> Path:
    """Return the folder where deployments are looked up by name: REYA_INDEXER_CONFIG_DIR, else the shipped one."""
    override = os.environ.get("REYA_INDEXER_CONFIG_DIR")
    return Path(override) if override else data_dir("config")


def load(chain: str) -> Deployment:
    """Load a deployment. `chain`: the name of a file in the config folder, or the path of a .toml file."""
    path = Path(chain) if chain.endswith(".toml") else config_dir() / f"{chain}.toml"
    if not path.is_file() and not chain.endswith(".toml"):
        known = ", ".join(sorted(p.stem for p in config_dir().glob("*.toml")))
        raise ConfigError(
            f"no deployment named {chain!r} in {config_dir()}", f"Known: {known}; or pass the path of a .toml file"
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "Check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text", "Save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}", "Fix that line") from error
    return _Reader(path, raw).deployment()


class _Reader:
    """Turns parsed TOML into a Deployment; each error names the file and the key."""

    def __init__(self, path: Path, raw: dict[str, object]) -> None:
        self.path, self.raw = path, raw

    def fail(self, key: str, problem: str, remedy: str) -> ConfigError:
        """Return the error for a key; the caller raises it."""
        return ConfigError(f"{self.path}: {key}: {problem}", remedy)

    def deployment(self) -> Deployment:
        """Return the validated deployment. Raises ConfigError."""
        top = self.raw
        self._only(top, "", {"name", "chain_id", "env_prefix", "start_block", "finality", "polling", "ranges", "rpc"}
                   | {"attest", "stream", "budget", "contract", "token"})  # fmt: skip
        finality = self._table(top, "finality", {"depth"})
        polling = self._table(top, "polling", {"interval"})
        ranges = self._table(top, "ranges", {"max_blocks"})
        attest = self._table(top, "attest", {"enabled", "rps", "recent_blocks"} | {"head", "head_rps", "before_commit"})
        stream = self._table(top, "stream", {"keep_hours", "keep_megabytes"})
        rpc = self._table(top, "rpc", {"timeout", "rps"})
        budget = self._table(top, "budget", set(PURPOSES))
        contracts = tuple(self._contract(i, entry) for i, entry in enumerate(self._list(top, "contract", needed=True)))
        self._require_unique_events(contracts)
        return Deployment(
            path=self.path,
            name=self._pattern(top, "", "name", _NAME, "a lower-case word such as reya"),
            chain_id=self._int(top, "", "chain_id", 1, 2**63 - 1),
            env_prefix=self._pattern(top, "", "env_prefix", re.compile(r"[A-Z][A-Z0-9_]*"), "upper case, such as REYA"),
            start_block=self._int(top, "", "start_block", 0, 2**53, 0),
            finality_depth=self._int(finality, "finality.", "depth", 1, 10**9, 20_000),
            poll_interval=self._seconds(polling, "polling.", "interval", 0.25),
            max_blocks=self._int(ranges, "ranges.", "max_blocks", 1, 10**7, 2000),
            contracts=contracts,
            tokens=tuple(self._token(i, entry) for i, entry in enumerate(self._list(top, "token", needed=False))),
            attest=self._attest(attest),
            keep=Keep(
                self._int(stream, "stream.", "keep_hours", 1, 8_760, 24),
                self._int(stream, "stream.", "keep_megabytes", 100, 10**7, 2_000),
            ),
            rpc_timeout=self._seconds(rpc, "rpc.", "timeout", 20.0),
            rps=self._rate(rpc, "rpc.", "rps") if "rps" in rpc else None,
            budgets=tuple(
                (purpose, self._rate(budget, "budget.", purpose)) for purpose in PURPOSES if purpose in budget
            ),
        )

    def _attest(self, table: dict[str, object]) -> Attest:
        made = Attest(
            self._flag(table, "attest.", "enabled", default=True),
            self._rate(table, "attest.", "rps", 4.0),
            self._int(table, "attest.", "recent_blocks", 0, 2**53, 1_000_000),
            self._flag(table, "attest.", "head", default=True),
            self._rate(table, "attest.", "head_rps", 20.0),
            self._flag(table, "attest.", "before_commit"),
        )
        if made.before_commit and not made.enabled:
            problem = "stored blocks would wait for their proof for ever, because enabled = false"
            raise self.fail("attest.before_commit", problem, "Set enabled = true, or before_commit = false")
        return made

    def _contract(self, i: int, entry: dict[str, object]) -> Contract:
        at = f"contract[{i}]."
        self._only(entry, at, {"name", "address", "abis", "erc20", "stamps", "pool_account"})
        names = entry.get("abis")
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise self.fail(at + "abis", "must be a list of ABI names", 'Write abis = ["core", "proxy"]')
        erc20, stamps = self._flag(entry, at, "erc20"), self._flag(entry, at, "stamps")
        events: list[EventAbi] = []
        for name in names:
            events += self._abi(at, name)
        transfer = any(e.signature == "Transfer(address,address,uint256)" and e.indexed_count == 2 for e in events)
        if erc20 and not transfer:
            raise self.fail(at + "abis", "an erc20 contract needs the ERC-20 event Transfer", 'Add "erc20" to abis')
        return Contract(
            self._pattern(entry, at, "name", _NAME, "a lower-case word"),
            self._address(entry, at),
            tuple(names),
            tuple(events),
            erc20,
            stamps,
            self._int(entry, at, "pool_account", 1, 2**128 - 1) if "pool_account" in entry else None,
        )

    def _flag(self, entry: dict[str, object], at: str, key: str, *, default: bool = False) -> bool:
        value = entry.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(at + key, "must be true or false", f"Write {key} = true")
        return value

    def _abi(self, at: str, name: str) -> list[EventAbi]:
        local = self.path.parent / f"{name}.json" if "/" not in name else self.path.parent / name
        path = local if local.is_file() else data_dir("abis") / f"{name}.json"
        try:
            return load_abi(path)
        except OSError:
            known = ", ".join(sorted(p.stem for p in data_dir("abis").glob("*.json")))
            raise self.fail(at + "abis", f"no ABI named {name!r}", f"Known: {known}") from None
        except ValueError as error:
            raise self.fail(at + "abis", f"{path}: {error}", "Use a JSON ABI with at least one event") from error

    def _require_unique_events(self, contracts: Sequence[Contract]) -> None:
        seen: dict[tuple[str, bytes], str] = {}
        for i, contract in enumerate(contracts):
            for event in contract.events:
                key = (contract.address, event.topic0)
                if key in seen:
                    raise self.fail(
                        f"contract[{i}].abis",
                        f"two entries for address {contract.address} and event {event.signature}"
                        f" (topic0 0x{event.topic0.hex()}), the first in {seen[key]}",
                        "Keep only one of them: each log has one decoder",
                    )
                seen[key] = f"contract[{i}] {contract.name}"

    def _token(self, i: int, entry: dict[str, object]) -> Token:
        at = f"token[{i}]."
        self._only(entry, at, {"address", "name", "symbol"})
        return Token(self._address(entry, at), self._text(entry, at, "name"), self._text(entry, at, "symbol"))

    def _address(self, table: dict[str, object], at: str) -> str:
        address = self._pattern(table, at, "address", _ADDRESS, "0x and 40 hex digits")
        digits = address[2:]
        if digits not in (digits.lower(), digits.upper()) and not _checksum_fits(address):
            problem = f"{address!r} is mistyped: its capitalization does not match the EIP-55 checksum"
            raise self.fail(
                at + "address", problem, "Copy the address again; an all-lowercase address is accepted unchecked"
            )
        return address.lower()

    def _only(self, table: Mapping[str, object], at: str, known: set[str]) -> None:
        for key in table:
            if key not in known:
                raise self.fail(at + key, "unknown key", f"Known keys: {', '.join(sorted(known))}")

    def _table(self, top: dict[str, object], key: str, known: set[str]) -> dict[str, object]:
        table = top.get(key, {})
        if not isinstance(table, dict):
            raise self.fail(key, "must be a table", f"Write [{key}]")
        self._only(table, f"{key}.", known)
        return table

    def _list(self, top: dict[str, object], key: str, *, needed: bool) -> list[dict[str, object]]:
        entries = top.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries) or (needed and not entries):
            raise self.fail(key, "must be a list of tables", f"Write one [[{key}]] for each")
        return entries

    def _text(self, table: dict[str, object], at: str, key: str) -> str:
        value = table.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(at + key, "missing or not a string", f'Write {key} = "..."')
        return value

    def _pattern(self, table: dict[str, object], at: str, key: str, pattern: re.Pattern[str], like: str) -> str:
        value = self._text(table, at, key)
        if not pattern.fullmatch(value):
            raise self.fail(at + key, f"{value!r} is not valid", f"It must be {like}")
        return value

    def _int(self, table: dict[str, object], at: str, key: str, low: int, high: int, default: int | None = None) -> int:
        value = table.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(at + key, f"{value!r} is not a whole number from {low} to {high}", "Correct the value")
        return value

    def _rate(self, table: dict[str, object], at: str, key: str, default: float | None = None) -> float:
        value = table.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0.01 <= value <= 1e6:
            raise self.fail(at + key, f"{value!r} is not a rate from 0.01 to 1000000 per second", "Correct the value")
        return float(value)

    def _seconds(self, table: dict[str, object], at: str, key: str, default: float) -> float:
        value = table.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0.01 <= value <= 3600:
            raise self.fail(at + key, f"{value!r} is not a time from 0.01 to 3600 seconds", "Correct the value")
        return float(value)
