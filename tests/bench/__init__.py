"""Benchmark of the dashboard: every query and page over a million orders. `make bench` runs it."""
