"""The load generator: sends orders on an arrival schedule and records what happens to each."""
