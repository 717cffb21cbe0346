"""What tests, benchmarks and campaigns share: a simulated chain, a real node, an oracle, a stub endpoint, servers."""
