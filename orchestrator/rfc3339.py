"""Times as RFC 3339 text."""

import re
from datetime import UTC, datetime, timedelta

_TIME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<minute>\d\d:\d\d)(:(?P<second>\d\d)(?P<fraction>\.\d+)?)?"
    # In the query of a URL, an unescaped + is decoded as a space.
    r"(?P<offset>[Zz]|[-+ ]\d\d:\d\d)?",
    re.ASCII,
)


def format_rfc3339(time: datetime, timespec: str = "milliseconds") -> str:
    """Return the time in UTC with the suffix Z."""
    return time.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def parse_rfc3339(text: str, *, offset_required: bool = True) -> datetime:
    """Return the time in UTC, to the microsecond. Raises ValueError.

    Accepts every RFC 3339 time, also with a leap second, which becomes the next second. Seconds may be
    missing. Without `offset_required`, a time without offset is in UTC.
    """
    match = _TIME.fullmatch(text)
    if match is None or (offset_required and match["offset"] is None):
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    second = match["second"] or "00"
    is_leap_second = second == "60"
    offset = (match["offset"] or "Z").upper().replace(" ", "+")
    # fromisoformat reads at most six digits of the fraction.
    fraction = (match["fraction"] or "")[:7]
    time = datetime.fromisoformat(
        f"{match['date']}T{match['minute']}:{'59' if is_leap_second else second}{fraction}{offset}"
    )
    try:
        return (time + timedelta(seconds=is_leap_second)).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"outside the years 1 to 9999: {text!r}") from None
