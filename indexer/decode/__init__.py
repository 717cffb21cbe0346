"""Decoding of logs: ABIs, and the registry that finds a decoder by (address, topic0). Pure except for ABI files."""
