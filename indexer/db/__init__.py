"""Connections to PostgreSQL, its errors and formats, and the catalog of our tables."""
