"""Sections of pages: Streamlit elements over view models and charts."""
