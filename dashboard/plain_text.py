"""Text that came from a user, made harmless for the two places that would read it as markup."""

import html
import re

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_BREAKS = re.compile(r"\s+")


def markdown(text: str) -> str:
    """The text for a Markdown element, shown as it is: no link, picture, formula or icon can come of it."""
    # Markdown takes a backslash before any ASCII punctuation as "this character itself".
    return _PUNCTUATION.sub(r"\\\1", _BREAKS.sub(" ", text))


def chart(text: str) -> str:
    """The text for a label or hover box of a chart, which would read tags and links."""
    return html.escape(_BREAKS.sub(" ", text), quote=False)
