"""Numbers that no block has, ranges upside down, beyond the head or empty, rates that are none: refused, by name."""

from __future__ import annotations

import pytest

from tests.matrix.causes import Place
from tests.support.daemon import run

HUGE = str(2**63)
WRONG: dict[str, tuple[int, tuple[str, ...]]] = {  # command line: exit code, words
    f"backfill --from-block {HUGE}": (
        2,
        (
            "--from-block",
            "above 9223372036854775807",
        ),
    ),
    "backfill --from-block 900000": (10, ("--from-block 900000 is above the finalized block",)),
    "backfill --from-block 5 --to-block 2": (
        2,
        (
            "--to-block",
            "2 is below --from-block 5",
        ),
    ),
    "backfill --from-block 0 --rps nan": (
        2,
        (
            "--rps",
            "not a finite number",
        ),
    ),
    "backfill --from-block 0 --rps inf": (
        2,
        (
            "--rps",
            "not a finite number",
        ),
    ),
    "backfill --from-block 0 --workers 257": (
        2,
        (
            "--workers",
            "257",
        ),
    ),
    "run --poll-interval nan": (
        2,
        (
            "--poll-interval",
            "not a finite number",
        ),
    ),
    "run --attest-rps nan": (
        2,
        (
            "--attest-rps",
            "not a finite number",
        ),
    ),
    "run --http-host nonsense.invalid": (
        10,
        (
            "--http-host nonsense.invalid",
            "address of this machine",
        ),
    ),
    "verify --yes --grade proven --from 20 --to 10": (
        2,
        (
            "--to",
            "10 is below --from 20",
        ),
    ),
    "verify --yes --grade proven --from 900000": (31, ("no block from 900000 on is stored and final",)),
    f"verify --yes --grade proven --to {HUGE}": (
        2,
        (
            "--to",
            "above 9223372036854775807",
        ),
    ),
    "reorg verify --from 20 --to 10": (
        2,
        (
            "--to",
            "10 is below --from 20",
        ),
    ),
    "reorg verify --from 900000": (31, ("no block from 900000 on is stored and final",)),
    "reorg plan --to-block 900000": (31, ("--to-block 900000 is above the highest stored block",)),
    f"reorg show {HUGE}": (
        2,
        (
            "ID",
            "above 9223372036854775807",
        ),
    ),
    "reorg show 77": (
        31,
        (
            "there is no reorg 77",
            "reorg list",
        ),
    ),
    f"reorg list --limit {HUGE}": (
        2,
        (
            "--limit",
            "above 9223372036854775807",
        ),
    ),
    f"incidents close {HUGE} --note x": (
        2,
        (
            "NUMBER",
            "above 9223372036854775807",
        ),
    ),
    "incidents close 77 --note x": (
        31,
        (
            "no open incident 77",
            "incidents list",
        ),
    ),
    f"check --sample {HUGE}": (
        2,
        (
            "--sample",
            "above 9223372036854775807",
        ),
    ),
    "check --rps nan": (
        2,
        (
            "--rps",
            "not a finite number",
        ),
    ),
    "enrich --rps nan": (
        2,
        (
            "--rps",
            "not a finite number",
        ),
    ),
    f"reproject --from {HUGE}": (
        2,
        (
            "--from",
            "above 9223372036854775807",
        ),
    ),
    "reproject --from 900000": (31, ("nothing is projected from block 900000 on",)),
    "reproject --event Nonsense": (31, ("no watched contract has an event 'Nonsense'",)),
}


@pytest.mark.parametrize("line", WRONG)
def test_an_odd_value_is_refused_by_name(line: str, place: Place) -> None:
    code, words = WRONG[line]
    done = run(*line.split(), env={"DATABASE_URL": place.good_url, "REYA_RPC_URL": place.node_url})
    assert done.returncode == code and "Traceback" not in done.stderr and not done.stdout, done
    assert all(word in done.stderr.splitlines()[-1] for word in words), done.stderr
