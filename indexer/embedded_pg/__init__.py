"""The embedded PostgreSQL: a supervisor of the server in our own data folder."""
