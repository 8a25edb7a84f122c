"""Extensions of Locust's web UI."""
