"""How we ask a node: transport, error classes, range control, endpoint pool."""
