"""Figures: pure functions from rows to a Plotly figure or a table."""
