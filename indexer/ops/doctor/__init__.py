"""What `reya-indexer doctor` examines."""
