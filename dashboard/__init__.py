"""The dashboard: a Streamlit app. Reads the database in a read-only role; sends requests to the REST API."""
