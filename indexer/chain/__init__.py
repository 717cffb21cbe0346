"""Model of a chain: blocks, logs, finality, block ranges, forks. Pure; imports nothing that does I/O."""
