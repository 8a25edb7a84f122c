"""Escaping of user text for Markdown and for charts."""

import html
import re

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_WHITESPACE = re.compile(r"\s+")


def markdown(text: str) -> str:
    """Escape all Markdown of a text: links, images, formulas, icons. Line breaks become spaces."""
    # CommonMark allows a backslash escape before any ASCII punctuation.
    return _PUNCTUATION.sub(r"\\\1", _WHITESPACE.sub(" ", text))


def chart(text: str) -> str:
    """Escape the HTML of a text for a chart label or hover box."""
    return html.escape(_WHITESPACE.sub(" ", text), quote=False)
