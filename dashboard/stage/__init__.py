"""The picture of the page Stage: an HTML document, and the live data that its script reads."""
