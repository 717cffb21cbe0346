"""Health, readiness, status and metrics of a running daemon, and the checks of `reya-indexer doctor`."""
