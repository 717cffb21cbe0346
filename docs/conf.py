"""Settings of the documentation site. `make docs` builds it; every warning is an error."""

from __future__ import annotations

project = "reya-indexer"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "README.md"]
nitpicky = True

# Anchors of headings as forges make them, so that links work on both.
myst_heading_anchors = 4
suppress_warnings: list[str] = []

html_theme = "furo"
html_title = "reya-indexer"
html_show_sphinx = False
html_copy_source = False
