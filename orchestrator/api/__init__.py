"""The REST API: the one way in for the CLI, the load generator and the dashboard's buttons."""
