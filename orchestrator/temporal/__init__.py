"""The Temporal client, and what the product reads from Temporal."""
