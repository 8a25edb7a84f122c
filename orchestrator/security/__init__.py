"""API keys, sessions, bind policy and payload encryption."""
