"""Reports of a run: terminal output and files."""
