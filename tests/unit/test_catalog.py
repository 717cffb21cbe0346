"""What the program knows of its tables without SQLAlchemy is what the metadata says."""

from __future__ import annotations

import json
import subprocess
import sys

from indexer.db import catalog
from indexer.schema.tables import metadata


def test_the_facts_are_those_of_the_metadata() -> None:
    stated = {
        "kinds": catalog._KINDS, "columns": catalog.COLUMNS, "keys": catalog.KEYS, "indexes": catalog.INDEXES,
        "enriched": catalog.ENRICHED_COLUMNS, "enriched_keys": catalog.ENRICHED_KEYS,
    }  # fmt: skip
    # Once through JSON: tuples are lists there, and the order of columns counts.
    assert json.dumps(stated) == json.dumps(metadata.catalog_content()), "run make generate"


def test_a_start_does_not_wait_for_what_it_does_not_need() -> None:
    script = "import sys, indexer.cli.backfill, indexer.cli.run; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sqlalchemy", "alembic", "rich.progress", "web3", "eth_abi"} & set(loaded)
