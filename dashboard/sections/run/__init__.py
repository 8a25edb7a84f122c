"""One load test."""
