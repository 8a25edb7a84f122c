"""A check of the URL of the API that needs no connection."""


def credentials_problem(url: str) -> str | None:
    """Return a message if the URL contains a user or a password, which other messages would print, else
    None."""
    if "@" not in url.partition("//")[2].partition("/")[0]:
        return None
    return "the URL of the API must not contain a user or a password; set API_KEY to the key"
