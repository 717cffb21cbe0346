"""How the tables come to be: descriptions, migrations, roles, adoption of a database that others made."""
