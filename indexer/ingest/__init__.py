"""How we come to believe and keep: the planner, confirmed units of work, coverage."""
