"""The dashboard: a Streamlit application over the REST API and a read-only database role."""
