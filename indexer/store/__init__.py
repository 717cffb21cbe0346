"""Repositories: one module per internal table, SQL and its meaning."""
