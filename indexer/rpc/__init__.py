"""JSON-RPC access to nodes: transport, error classes, adaptive sizes, endpoint pool and endpoint health."""
