"""The books in PostgreSQL: migrations, named SQL and a thin typed layer over it."""
