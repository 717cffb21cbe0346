"""Table descriptions, migrations, roles, and the adoption of existing databases."""
