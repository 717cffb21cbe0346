"""The checks of `reya-indexer doctor`: endpoints and the database."""
