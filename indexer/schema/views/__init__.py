"""The views, as SQL."""
