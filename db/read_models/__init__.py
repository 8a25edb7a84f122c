"""Read models: the queries behind the REST API and the dashboard."""
