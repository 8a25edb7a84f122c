"""View models: pure functions from rows and JSON to what a page shows."""
