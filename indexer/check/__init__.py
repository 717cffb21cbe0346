"""Are the rows right? Invariants, a recompute from raw logs, a replay of positions, the contracts' own state."""
