"""Attestation: raw logs checked against consensus data, or against a second endpoint."""
