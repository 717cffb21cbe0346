"""Registry of the watched contracts and their decoders by (address, topic0), built once at start-up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from indexer.chain.types import address_bytes
from indexer.decode.abi import EventAbi, load_abi
from indexer.decode.codegen import Args
from indexer.errors import DecodeMismatchError
from indexer.runtime.resources import data_dir


@dataclass(frozen=True, slots=True)
class Contract:
    """A watched contract and its event ABIs.

    `address`: lower-case 0x. `erc20`: its Transfer events are ERC-20 transfers. `stamps`: `blockTimestamp` in its
    events is the time of their block. `pool_account`: the counterparty of its match orders if their transaction does
    not name one.
    """

    name: str
    address: str
    abis: tuple[str, ...]
    events: tuple[EventAbi, ...]
    erc20: bool = False
    stamps: bool = False
    pool_account: int | None = None


class ContractDecoders(NamedTuple):
    """The decoders of a watched contract: `events` by topic0, and those topics as text."""

    address: str
    erc20: bool
    events: dict[bytes, EventAbi]
    topic_texts: dict[bytes, str]


class Registry:
    """Finds the one decoder of a log.

    `watched`, `erc20`: lower-case 0x addresses. `by_address`: decoders by the 20 bytes of the address.
    """

    def __init__(self, contracts: Iterable[Contract]) -> None:
        contracts = tuple(contracts)
        self.watched = frozenset(c.address for c in contracts)
        self.erc20 = frozenset(c.address for c in contracts if c.erc20)
        self.pool_account = next((c.pool_account for c in contracts if c.pool_account), None)
        self.by_address = {address_bytes(c.address): _decoders(c) for c in contracts}
        self._by_shape = {(e.topic0, e.indexed_count): e for c in reversed(contracts) for e in c.events}

    def with_shipped_abis(self) -> Registry:
        """Add every shipped ABI for lookups by shape, and return self; the deployment's own ABIs come first."""
        for path in sorted(data_dir("abis").glob("*.json")):
            for event in load_abi(path):
                self._by_shape.setdefault((event.topic0, event.indexed_count), event)
        return self

    def find(self, address: str, topic0: bytes) -> EventAbi | None:
        """Return the event of a watched contract (lower-case 0x address), or None."""
        decoders = self.by_address.get(address_bytes(address))
        return decoders.events.get(topic0) if decoders else None

    def decode(self, address: str, topics: Sequence[bytes], data: bytes) -> tuple[EventAbi, Args]:
        """Return the event and its arguments.

        Raises DecodeMismatchError with the reason when the log has no decoder or does not fit it.
        """
        if not topics:
            raise DecodeMismatchError("no topics")
        event = self.find(address, topics[0])
        if event is None:
            raise DecodeMismatchError("unknown topic" if address in self.watched else "address is not watched")
        return event, event.decode(topics, data)

    def decode_by_shape(self, topics: Sequence[bytes], data: bytes) -> tuple[EventAbi, Args]:
        """Decode by topic0 and number of topics only, whatever the address.

        Returns the event and its arguments. Raises DecodeMismatchError as `decode` does.
        """
        if not topics:
            raise DecodeMismatchError("no topics")
        event = self._by_shape.get((topics[0], len(topics) - 1))
        if event is None:
            raise DecodeMismatchError("no known event has this topic0 and number of topics")
        return event, event.decode(topics, data)


def _decoders(contract: Contract) -> ContractDecoders:
    events = {e.topic0: e for e in contract.events}
    return ContractDecoders(
        contract.address, contract.erc20, events, {topic0: "0x" + topic0.hex() for topic0 in events}
    )
