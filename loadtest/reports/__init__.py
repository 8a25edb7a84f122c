"""Reports of a load test run, on the terminal and as files."""
