"""The headers of a contract range that prove themselves: they hash to what they claim and lead to a stored block. Pure.

The stored blocks are anchors: a header is proven if it hashes to an anchor's hash, or to the parent hash of a proven
header. A header that nobody gives in a readable form therefore costs its own block, and the blocks below it up to the
next anchor; all others stay proven.
"""

from __future__ import annotations

from collections.abc import Mapping

from indexer.errors import RpcError
from indexer.ingest.proof_rules import ProofFailure, header_failure
from indexer.rpc.receipts import SealedHeader


class HeaderChain:
    """The headers of blocks `first`..`last`, taken from as many endpoints as it needs.

    Args:
        first: First block.
        last: Last block; its hash should be known, or nothing above the highest known one is proven.
        known: Hashes of stored blocks by number; that of `first` - 1 is compared, too.
    """

    def __init__(self, first: int, last: int, known: Mapping[int, bytes]) -> None:
        self.first, self.last, self._known = first, last, known
        self._headers: dict[int, SealedHeader] = {}
        self._servers: dict[int, str] = {}

    def lacking(self) -> list[int]:
        """Return the blocks that no header proves yet, ascending."""
        proven = {sealed.header.number for sealed in self.proven()}
        return [n for n in range(self.first, self.last + 1) if n not in proven]

    def add(self, endpoint: str, answers: Mapping[int, SealedHeader | RpcError]) -> list[ProofFailure]:
        """Take what an endpoint answered, and return why some of it proves nothing.

        A header that is not on the stored chain is dropped: another endpoint may have the right one.
        """
        failures = []
        for number, answer in answers.items():
            failure = header_failure(endpoint, number, answer)
            if failure is not None:
                failures.append(failure)
            elif not isinstance(answer, RpcError):
                self._headers[number], self._servers[number] = answer, endpoint
        return failures + [self._dropped(number, detail) for number, detail in self._off_chain()]

    def _dropped(self, number: int, detail: str) -> ProofFailure:
        del self._headers[number]
        return ProofFailure(self._servers.pop(number), number, "chain", detail)

    def _off_chain(self) -> list[tuple[int, str]]:
        """Return the headers that contradict the anchors, with the reason."""
        found, parent = [], None
        for number in range(self.last, self.first - 1, -1):
            sealed, stored = self._headers.get(number), self._known.get(number)
            if stored is not None and parent is not None and parent != stored:
                found.append((number + 1, f"block {number + 1} does not follow block {number}"))
            expected = parent if stored is None else stored
            if sealed is not None and expected is not None and sealed.header.hash != expected:
                what = "is stored with another hash" if stored is not None else f"is not the parent of {number + 1}"
                found.append((number, f"block {number} {what}"))
                sealed = None
            parent = sealed.header.parent_hash if sealed is not None and expected is not None else None
        below = self._known.get(self.first - 1)
        if below is not None and parent is not None and parent != below:
            found.append((self.first, f"block {self.first} does not follow block {self.first - 1}"))
        return found

    def proven(self) -> list[SealedHeader]:
        """Return the proven headers, ascending."""
        proven: list[SealedHeader] = []
        parent: bytes | None = None
        for number in range(self.last, self.first - 1, -1):
            sealed, expected = self._headers.get(number), self._known.get(number, parent)
            parent = None
            if sealed is not None and sealed.header.hash == expected:
                proven.append(sealed)
                parent = sealed.header.parent_hash
        return proven[::-1]

    def servers(self) -> list[str]:
        """Return the endpoints whose headers are used, in the order in which they were asked."""
        return list(dict.fromkeys(self._servers[s.header.number] for s in self.proven()))
