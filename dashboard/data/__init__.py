"""Data of the dashboard: clients, cached reads and background jobs."""
