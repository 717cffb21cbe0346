"""The embedded PostgreSQL: a supervisor for a server in our own data folder."""
