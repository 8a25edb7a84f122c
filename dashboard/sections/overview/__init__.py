"""Sections of the page Overview."""
