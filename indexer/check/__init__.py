"""Checks of the rows: invariants, a recompute from raw logs, a replay of positions, the contracts' own state."""
