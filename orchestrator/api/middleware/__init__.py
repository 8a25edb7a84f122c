"""ASGI middleware of the REST API."""
