"""Writes indexer/store/facts.json from the metadata."""

from __future__ import annotations

import json
from pathlib import Path

from indexer.store.tables import facts

if __name__ == "__main__":
    Path(__file__).parents[1].joinpath("facts.json").write_text(json.dumps(facts(), indent=1) + "\n")
