"""Cursors of the order list: the acceptance time in microseconds since 1970, and the order id."""

import re
from datetime import UTC, datetime, timedelta

from db.read_models.order_details import OrderSummary, PageKey
from orchestrator.errors import RequestMalformed

CURSOR_PATTERN = r"^[0-9]{1,17}\.[A-Za-z0-9_-]{1,64}$"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def cursor(last: OrderSummary) -> str:
    """Return the cursor of the page after this order."""
    return f"{(last.accepted_at - _EPOCH) // timedelta(microseconds=1)}.{last.order_id}"


def page_key(text: str | None) -> PageKey | None:
    """Parse a cursor. Raises RequestMalformed."""
    if text is None:
        return None
    if not re.fullmatch(CURSOR_PATTERN, text, re.ASCII):
        raise RequestMalformed("cursor: not a `next_cursor` of this list")
    microseconds, _, order_id = text.partition(".")
    return PageKey(_EPOCH + timedelta(microseconds=int(microseconds)), order_id)
