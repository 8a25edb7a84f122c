"""The parts of the page Load tests."""
