"""Streams: what the feed delivers, taken to brokers and to clients."""
