"""Charts of load tests."""
