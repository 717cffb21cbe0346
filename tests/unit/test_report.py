"""What `--json` prints: its keys and their order, which scripts depend on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields

import pytest

from indexer.chain.ranges import BlockRange
from indexer.check.position_replay import Drift
from indexer.cli.backfill import BackfillReport, BlockGap
from indexer.cli.check import CheckReport, PositionsReport, ViewsReport
from indexer.cli.enrich import EnrichEstimate, EnrichReport
from indexer.cli.reorg_recovery import ComparisonReport, HealedRange, PlanReport, RecoveryReport
from indexer.cli.report import OMIT_NONE, report_json
from indexer.cli.verify import VerifyEstimate, VerifyReport
from indexer.ingest.estimate import BackfillEstimate
from indexer.projector.reproject import ReprojectResult

KEYS = {
    BackfillEstimate: "from_block to_block blocks segments samples logs requests bytes seconds bound_by",
    BackfillReport: "from_block to_block projected gap logs rows steps requests errors seconds",
    BlockGap: "first last",
    CheckReport: "block identities rows_compared whole drifts positions views",
    PositionsReport: "followed statements sessions markets contradictions examples",
    ViewsReport: "block hash compared unanswered",
    ComparisonReport: "from_block to_block clamped logs count differences healed",
    HealedRange: "from_block to_block rows",
    EnrichEstimate: "dry_run block hash resumed targets calls seconds",
    EnrichReport: "block hash resumed calls written kept unanswered left",
    PlanReport: "dry_run plan_hash fork_point to_block to_block_hash nothing_to_do below_finalized tables exact tip"
    " new_tip checkpoint epoch endpoint endpoints",
    RecoveryReport: "dry_run plan_hash fork_point to_block changed rows logs tip projected epoch",
    VerifyEstimate: "from_block to_block grade blocks requests receipts seconds hours rps samples",
    VerifyReport: "grade from_block to_block finalized blocks logs count differences healed blamed left requests"
    " attested",
}


@pytest.mark.parametrize("report", KEYS, ids=lambda report: report.__name__)
def test_the_keys_of_a_report_are_as_recorded(report: type) -> None:
    assert [f.name for f in fields(report)] == KEYS[report].split()


@dataclass(frozen=True, slots=True)
class Sample:
    gap: BlockGap | None
    healed: list[BlockRange]
    drifts: tuple[Drift, ...]
    amount: int
    views: ViewsReport | None = field(metadata=OMIT_NONE)


def test_a_report_prints_its_fields_in_order_and_integers_in_full() -> None:
    sample = Sample(None, [BlockRange(1, 2)], (Drift("a", "b", "c"),), 2**70, None)
    assert report_json(sample) == (
        '{"gap": null, "healed": [[1, 2]], "drifts": [{"check": "a", "subject": "b", "detail": "c"}],'
        f' "amount": {2**70}}}'
    )
    both = json.loads(report_json(Sample(BlockGap(3, 4), [], (), 0, ViewsReport(1, "0x", 0, []))))
    assert both["gap"] == {"first": 3, "last": 4} and list(both)[-1] == "views"
    assert json.loads(report_json(ReprojectResult(True, False, 1, 2, 3)))["whole"] is True
