"""The errors of a rejected request, by the fields of a form."""

import re
from collections.abc import Collection, Iterator, Mapping

from db.domain import text_errors
from orchestrator.errors import OrderSystemError, RequestMalformed

FORM = ""
"""The key of the messages that belong to no field of the form."""

_ITEM = re.compile(r"items\.(\d+)")


def field_errors(error: OrderSystemError, fields: Collection[str]) -> dict[str, str]:
    """Return the messages of an error by form field, each a plain sentence; those of no field under FORM."""
    messages: dict[str, list[str]] = {}
    for name, message in _messages(error):
        messages.setdefault(name if name in fields else FORM, []).append(message)
    return {name: _sentence("; ".join(found)) for name, found in messages.items()}


def text_field_errors(values: Mapping[str, str]) -> dict[str, str]:
    """Return the message of each text that the API would reject, by field, with the field's name in words."""
    return {
        name: _sentence(error.replace(name, name.replace("_", " ")))
        for name, error in text_errors(**values).items()
    }


def _messages(error: OrderSystemError) -> Iterator[tuple[str, str]]:
    if not isinstance(error, RequestMalformed) or not error.fields:
        yield FORM, str(error)
        return
    for path, message in error.fields.items():
        name = path.rpartition(".")[2]
        if item := _ITEM.search(path):
            yield "items", f"line {int(item[1]) + 1}: {message}"
        else:
            yield name, message


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
