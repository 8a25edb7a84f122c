"""Maintenance of the order database: audit, retention, stale orders and diagnostics."""
