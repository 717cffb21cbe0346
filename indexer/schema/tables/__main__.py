"""Writes indexer/db/catalog.json from the metadata."""

from __future__ import annotations

import json
from pathlib import Path

from indexer.schema.tables.metadata import catalog_content

if __name__ == "__main__":
    Path(__file__).parents[2].joinpath("db", "catalog.json").write_text(json.dumps(catalog_content(), indent=1) + "\n")
