"""Sinks: one module for each kind of broker. A client library is imported only when its sink is used."""
