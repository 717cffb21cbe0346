"""Bytes to events: ABIs, and the registry that finds a decoder by (address, topic0). Pure but for ABI files."""
