"""The only transactions that change public rows."""
