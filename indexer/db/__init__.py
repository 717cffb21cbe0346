"""How the program speaks to PostgreSQL, and what it knows of its tables while it works."""
