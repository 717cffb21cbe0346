"""Every rule of grade, healing and blame, as a table: what follows from which evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from indexer.attest.evidence import Comparison, CrossCheck, Proof, StoredRange, differences
from indexer.attest.verdict import BlockedHeal, NoAnchor, Verdict, decide
from indexer.chain.log_set import CHANGED, LEFT_OUT, MADE_UP, WRONG_INDEX
from indexer.chain.ranges import BlockRange, ContractRange
from indexer.chain.receipts_root import receipts_root
from indexer.chain.types import BlockRef, Header, Log
from indexer.errors import InconsistentResponseError, MissingBlockError, RpcError, TransientRpcError
from indexer.ingest.proof_rules import ProofFailure, check_header, check_receipts, header_failure
from indexer.rpc.receipts import BlockReceipts, SealedHeader

CONTRACT = "0x" + "aa" * 20
BLOCKS = ContractRange(10, 14, (CONTRACT,))
ROOT = receipts_root([])
EVERY = [(10, 14)]
NOBODY: Mapping[Any, Any] = {}


def hash_of(number: int) -> bytes:
    return number.to_bytes(32)


def header(number: int, time: int = 0) -> Header:
    return Header(number, hash_of(number), hash_of(number - 1), time or 1000 + number, b"", ROOT)


def log(block: int, index: int = 0, data: bytes = b"", transaction: bytes = b"\1" * 32) -> Log:
    return Log(block, index, b"\xaa" * 20, transaction, 0, (), data, hash_of(block))


TRUE = [log(10, 3), log(12, 5, b"five"), log(12, 6, b"six"), log(13, 1)]
LESS = [g for g in TRUE if g.identity != (12, 6)]


def stored(logs: Sequence[Log], lacking: Iterable[int] = ()) -> StoredRange:
    """Every block is stored, but for those that are lacking."""
    numbers = [n for n in range(10, 15) if n not in set(lacking)]
    return StoredRange(BLOCKS, [BlockRef(n, hash_of(n), 1000 + n) for n in numbers], list(logs))


def proof(
    own: Sequence[Log], *failures: ProofFailure, true: Sequence[Log] = TRUE, unproven: Iterable[int] = (),
    by: Mapping[int, str] = NOBODY, times: Mapping[int, int] = NOBODY,
) -> Proof:  # fmt: skip
    """Stored are the `own` logs. Headers are from "one", receipts as `by` says."""
    out = set(unproven)
    headers = [header(n, times.get(n, 0)) for n in range(10, 15)]
    proven = [g for g in true if g.block_number not in out]
    endpoints = list(dict.fromkeys(["one", *by.values()]))
    return Proof(stored(own), headers, proven, out, list(failures), endpoints, dict(by))


def compared(endpoint: str, read: Sequence[Log], own: Sequence[Log] = TRUE, chain: int | None = None) -> Comparison:
    """The endpoint has `read`, while the `own` logs are stored; `chain`: a block of which it has another hash."""
    local = stored(own)
    headers = [header(n)._replace(hash=b"\7" * 32) if n == chain else header(n) for n in range(10, 15)]
    return Comparison(local, endpoint, list(read), differences(local.block_refs, own, headers, read))


def check(
    *answers: Comparison | ProofFailure, servers: Sequence[str] = ("one",), right: Iterable[tuple[int, int]] = (),
    wrong: Iterable[int] = (),
) -> CrossCheck:  # fmt: skip
    found = CrossCheck(BLOCKS, list(servers))
    for answer in answers:
        found.add(answer)
    found.right, found.wrong = [BlockRange(*run) for run in right], set(wrong)
    return found


def receipts_of(block: int, answer: list[Log] | RpcError, own: Sequence[Log], *, root: bool = True) -> ProofFailure:
    """What the receipts of "one" lack to prove a block."""
    read = answer if isinstance(answer, RpcError) else BlockReceipts([], answer, in_place=True)
    of_block = header(block) if root else header(block)._replace(receipts_root=b"\2" * 32)
    failure = check_receipts("one", of_block, read, [g for g in own if g.block_number == block])
    assert failure is not None
    return failure


def header_of(block: int, answer: SealedHeader | RpcError) -> ProofFailure:
    failure = header_failure("one", block, answer) or check_header("one", header(block), answer)
    assert failure is not None
    return failure


def told(verdict: Verdict) -> dict[str, Any]:
    """The parts of a verdict that say something."""
    made = verdict.attestable
    parts = {
        "grade": made and made.grade,
        "attested": made and [tuple(run) for run in made.runs],
        "by": made and made.endpoints,
        "healed": [(c.batch.first, c.batch.last) for c in verdict.corrections],
        "served": [(fault.block, fault.what) for c in verdict.corrections for fault in c.faults],
        "provers": {block: endpoint for c in verdict.corrections for block, endpoint in c.provers.items()},
        "asked": verdict.faults and (verdict.asked, [(fault.block, fault.what) for fault in verdict.faults]),
        "keeps": [tuple(span) for span in verdict.unproven],
        "reasons": [(reason.endpoint, reason.why) for reason in verdict.reasons],
        "incidents": [(incident.kind, incident.subject) for incident in verdict.incidents],
        "proved": sorted(verdict.proved),
    }
    return said(parts)


def said(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part}


def proven(*runs: tuple[int, int], by: Sequence[str] = ("one",)) -> dict[str, Any]:
    return {"grade": "proven", "attested": list(runs), "by": list(by)}


def agreed(*runs: tuple[int, int], by: Sequence[str]) -> dict[str, Any]:
    return {"grade": "cross-checked", "attested": list(runs), "by": list(by)}


def heal(first: int, last: int, *served: tuple[int, str], provers: Mapping[int, str] = NOBODY) -> dict[str, Any]:
    """Nothing is attested: a heal starts a new epoch."""
    return {"healed": [(first, last)], "served": list(served), "provers": provers or {n: "one" for n, _ in served}}


def incident(kind: str, subject: str) -> dict[str, Any]:
    return {"incidents": [(kind, subject)]}


def keeps(*spans: tuple[int, int], why: str, endpoint: str = "one") -> dict[str, Any]:
    return {"keeps": list(spans), "reasons": [(endpoint, why)]}


def unprovable(*spans: tuple[int, int], why: str, endpoint: str = "one") -> dict[str, Any]:
    return keeps(*spans, why=why, endpoint=endpoint) | incident("unprovable", f"{endpoint}: {why}")


OTHER_FIELDS = SealedHeader(header(12), b"\3" * 32)
OTHER_BLOCK = SealedHeader(header(12)._replace(hash=b"\4" * 32), b"\4" * 32)
OTHER_TRANSACTION = [log(12, 5, b"five", b"\5" * 32), log(12, 6, b"six")]
AT_12 = [g for g in TRUE if g.block_number == 12]
PRUNED = InconsistentResponseError("no receipts for block 12")
UNREADABLE = ProofFailure("two", 10, "unreadable answer", "a header lacks its time")
WAITS = "blocks 12 to 13 are healed with others that are not final yet: Key (block_number)=(99) exists"

TABLE: list[tuple[str, Any, dict[str, Any]]] = [
    # Headers and receipts alone.
    ("the stored logs are proven", proof(TRUE), proven(*EVERY) | {"proved": ["one"]}),
    ("blooms prove that there are none", proof([], true=[]), proven(*EVERY) | {"proved": ["one"]}),
    ("a log was left out", proof(LESS), heal(12, 12, (12, LEFT_OUT))),
    ("a log was made up", proof([*TRUE, log(14)]), heal(14, 14, (14, MADE_UP))),
    ("a log was changed", proof([*LESS, log(12, 6, b"7")]), heal(12, 12, (12, CHANGED))),
    ("a log has a wrong index", proof([*LESS, log(12, 9, b"six")]), heal(12, 12, (12, WRONG_INDEX))),
    ("a time is wrong, which no endpoint served with the logs", proof(TRUE, times={13: 5}),
     heal(13, 13, provers={13: "one"})),
    ("two blocks are wrong in one run: it is healed from the first to the last of them", proof(TRUE[1:-1]),
     heal(10, 13, (10, LEFT_OUT), (13, LEFT_OUT))),
    ("two blocks are wrong around one that nobody proves: both are healed, and it keeps its grade",
     proof(TRUE[1:-1], receipts_of(12, PRUNED, TRUE), unproven=[12]),
     heal(10, 10, (10, LEFT_OUT)) | {"healed": [(10, 10), (13, 13)], "served": [(10, LEFT_OUT), (13, LEFT_OUT)],
                                     "provers": {10: "one", 13: "one"}} | unprovable((12, 12), why="no receipts")),
    ("receipts of several endpoints prove it: each fault names its own",
     proof(TRUE[2:-1], by={10: "one", 12: "two", 13: "three"}),
     heal(10, 13, (10, LEFT_OUT), (12, LEFT_OUT), (13, LEFT_OUT), provers={10: "one", 12: "two", 13: "three"})),
    ("the root does not match, the logs do: the endpoint's problem",
     proof(TRUE, receipts_of(12, AT_12, TRUE, root=False), unproven=[12]),
     proven((10, 11), (13, 14)) | unprovable((12, 12), why="root")),
    ("the root does not match, nor do the logs: nothing is healed, nobody is at fault",
     proof(LESS, receipts_of(12, AT_12, LESS, root=False), unproven=[12]),
     proven((10, 11), (13, 14)) | unprovable((12, 12), why="root")),
    ("only a transaction's hash differs, which no receipt proves",
     proof(TRUE, receipts_of(12, OTHER_TRANSACTION, TRUE), unproven=[12]),
     proven((10, 11), (13, 14)) | unprovable((12, 12), why="transaction hash")),
    ("receipts cannot be read", proof(TRUE, receipts_of(12, TransientRpcError("no gas"), TRUE), unproven=[12]),
     proven((10, 11), (13, 14)) | unprovable((12, 12), why="unreadable receipts")),
    ("there are no receipts", proof(TRUE, receipts_of(12, PRUNED, TRUE), unproven=[12]),
     proven((10, 11), (13, 14)) | unprovable((12, 12), why="no receipts")),
    ("a header's fields do not have its hash: the blocks below it up to the next anchor keep their grade, too",
     proof(LESS, header_of(12, OTHER_FIELDS), unproven=[11, 12]),
     proven((10, 10), (13, 14)) | unprovable((11, 12), why="header")),
    ("a header is of another chain", proof(LESS, header_of(12, OTHER_BLOCK), unproven=[12]),
     proven((10, 11), (13, 14)) | unprovable((12, 12), why="chain")),
    ("a header is missing", proof(LESS, header_of(12, MissingBlockError("none")), unproven=[12]),
     proven((10, 11), (13, 14)) | unprovable((12, 12), why="no header")),
    ("no header proves anything", proof(LESS, header_of(12, OTHER_FIELDS), unproven=range(10, 15)),
     proven() | unprovable((10, 14), why="header")),
    ("another endpoint proves what the first one cannot: attested, and the first one's incident stays",
     proof(TRUE, receipts_of(12, PRUNED, TRUE), by={12: "two"}),
     proven(*EVERY, by=["one", "two"]) | incident("unprovable", "one: no receipts") | {"proved": ["two"]}),
    ("it was proven before it was final: nothing was asked", Proof(stored(TRUE), logs=TRUE, endpoints=["then"]),
     proven(*EVERY, by=["then"]) | {"proved": ["then"]}),
    ("nothing is stored to chain headers to", NoAnchor(BLOCKS), keeps((10, 14), why="no anchor", endpoint="")),
    ("a heal waits for blocks that are not final", BlockedHeal(12, 13, "Key (block_number)=(99) exists"),
     keeps((12, 13), why="heal", endpoint="") | incident("heal_waits", "block 12")),
    # A second endpoint.
    ("a second endpoint agrees", check(compared("two", TRUE)),
     agreed(*EVERY, by=["one", "two"]) | {"proved": ["two"]}),
    ("nobody knows who served it, and two agree", check(compared("two", TRUE), compared("three", TRUE), servers=[]),
     agreed(*EVERY, by=["two", "three"]) | {"proved": ["three", "two"]}),
    ("nobody knows who served it, one agrees, the other is of another chain",
     check(compared("two", TRUE), compared("three", TRUE, chain=12), servers=[]),
     unprovable((10, 14), why="chain", endpoint="three")),
    ("a second endpoint is of another chain: its other logs are no fault", check(compared("two", LESS, chain=12)),
     unprovable((10, 14), why="chain", endpoint="two")),
    ("one is of another chain, the next one agrees", check(compared("two", TRUE, chain=12), compared("three", TRUE)),
     agreed(*EVERY, by=["one", "three"]) | {"proved": ["three"]}),
    ("an answer about the first block is unreadable: only that block keeps its grade", check(UNREADABLE),
     unprovable((10, 10), why="unreadable answer", endpoint="two")),
    ("a second endpoint has other logs, and nothing decides", check(compared("two", LESS)),
     agreed((10, 11), (13, 14), by=["one", "two"]) | keeps((12, 12), why="disagrees", endpoint="two")
     | incident("endpoints_disagree", "two")),
    ("a second endpoint has other logs, and the stored ones are proven",
     check(compared("two", LESS), right=[(12, 12)]),
     agreed((10, 11), (13, 14), by=["one", "two"]) | {"asked": ("two", [(12, LEFT_OUT)])}),
    ("a second endpoint has other logs, and the stored ones are proven wrong but must not be healed",
     check(compared("two", TRUE, LESS), wrong=[12]), agreed((10, 11), (13, 14), by=["one", "two"])),
    ("a second endpoint has other logs in two blocks, and one of them is proven",
     check(compared("two", LESS[1:]), right=[(12, 14)]),
     agreed((11, 11), (13, 14), by=["one", "two"]) | keeps((10, 10), why="disagrees", endpoint="two")
     | {"asked": ("two", [(12, LEFT_OUT)])} | incident("endpoints_disagree", "two")),
    ("one agrees where two must, and the other has other logs",
     check(compared("two", TRUE), compared("three", LESS), servers=[]),
     agreed((10, 11), (13, 14), by=["three"]) | keeps((12, 12), why="disagrees", endpoint="three")
     | incident("endpoints_disagree", "three")),
]  # fmt: skip


@pytest.mark.parametrize(("evidence", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_follows_from_the_evidence(evidence: Any, expected: dict[str, Any]) -> None:
    verdict = decide(evidence)
    assert told(verdict) == said(expected)
    # Whatever the evidence: a block is attested, healed or left, never two of them, and blame needs other logs.
    attested = {n for first, last in expected.get("attested", ()) for n in range(first, last + 1)}
    assert not attested & {n for span in verdict.unproven for n in range(span.first, span.last + 1)}
    assert not (verdict.attestable and verdict.corrections)
    assert bool(verdict.corrections) == bool(verdict.differences)


def test_a_correction_has_every_header_and_the_true_logs_of_its_blocks_alone() -> None:
    (correction,) = decide(proof(TRUE[1:-1], by={10: "two"})).corrections
    assert [block.number for block in correction.batch.blocks] == [10, 11, 12, 13]
    assert correction.batch.logs == TRUE and correction.wrong == [10, 13]
    assert [source.endpoint for source in correction.batch.sources] == ["two"]


def test_logs_that_were_proven_before_are_not_compared_with_headers_that_nobody_read() -> None:
    own = stored(TRUE, lacking=[12])  # A block that a rollback took between two reads.
    verdict = decide(Proof(own, logs=own.logs, endpoints=["one"]))
    assert not verdict.corrections and not verdict.differences and verdict.attestable is not None


def test_an_attestation_names_the_hash_of_a_block_that_is_proven_but_not_stored() -> None:
    found = proof(TRUE)
    found.stored = stored(TRUE, lacking=[14])
    made = decide(found).attestable
    assert made is not None and made.hashes[14] == hash_of(14)


def test_details_say_what_an_operator_must_know() -> None:
    assert [i.detail for i in decide(BlockedHeal(12, 13, "Key (block_number)=(99) exists")).incidents] == [WAITS]
    (dispute,) = decide(check(compared("two", LESS))).incidents
    assert dispute.detail == "two has other logs than stored in block 12, and no receipts decide"
    (nothing,) = decide(NoAnchor(BLOCKS)).reasons
    assert nothing.detail == "no stored block from 10 on to chain headers to"
