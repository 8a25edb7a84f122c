"""Keyset pagination of the order list. A cursor has acceptance time, in Unix microseconds, and order id."""

import re
from datetime import UTC, datetime, timedelta

from db.read_models.order_details import OrderSummary, PageKey
from orchestrator.errors import RequestMalformed

CURSOR_PATTERN = r"^[0-9]{1,17}\.[A-Za-z0-9_-]{1,64}$"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def cursor_of(last: OrderSummary) -> str:
    """Return the cursor of the page that follows this order."""
    return f"{(last.accepted_at - _EPOCH) // timedelta(microseconds=1)}.{last.order_id}"


def parse_cursor(text: str | None) -> PageKey | None:
    """Return the key after which the page starts; None for the first page. Raises RequestMalformed."""
    if text is None:
        return None
    if not re.fullmatch(CURSOR_PATTERN, text, re.ASCII):
        raise RequestMalformed("cursor: must be the `next_cursor` of another page")
    microseconds, _, order_id = text.partition(".")
    return PageKey(_EPOCH + timedelta(microseconds=int(microseconds)), order_id)
