"""Repositories: one module per internal table, with its SQL and what the rows mean."""
