"""Chart builders for dashboard and run reports: pure functions from rows to a Plotly figure."""
