"""Calls of the deployed contracts' view functions."""
