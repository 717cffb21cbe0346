"""What a chain is: blocks, logs, finality, continuity. Pure; imports nothing that does I/O."""
