"""Descriptions of all tables, one module per family."""
