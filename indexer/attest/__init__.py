"""The proof: raw logs against consensus data, or against a second endpoint."""
