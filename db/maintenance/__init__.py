"""Maintenance of the order database: retention, stale orders and diagnostics."""
