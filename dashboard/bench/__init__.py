"""The dashboard at size, measured: every query, and pages of a server of its own over a million orders."""
