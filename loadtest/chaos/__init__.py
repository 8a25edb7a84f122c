"""Disturbances of the running stack and their impact."""
