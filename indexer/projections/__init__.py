"""Events to rows: one module per table family, all pure."""
