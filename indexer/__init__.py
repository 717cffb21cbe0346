"""reya-indexer: follows the Reya DEX contracts and keeps a PostgreSQL database equal to the canonical chain."""

__version__ = "0.1.0"
