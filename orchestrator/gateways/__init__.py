"""Adapters to external services: payment provider, warehouse and carrier."""
