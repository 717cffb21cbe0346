"""Ingesting raw logs: fetch, confirm and commit them with their coverage, in this process or in workers."""
