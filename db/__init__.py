"""The order database in PostgreSQL: migrations, named SQL, and typed functions over it."""
