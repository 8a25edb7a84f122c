"""Activities: gateway calls and writes to the order database."""
