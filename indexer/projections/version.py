"""The version of the projections: raise it whenever the same raw logs project to other rows."""

from __future__ import annotations

PROJECTIONS = 6  # Raised when a release projects the same logs to other rows: older databases are projected again.
