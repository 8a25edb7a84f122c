"""Charts of one order."""
