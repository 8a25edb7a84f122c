"""Exact times in Locust's statistics."""

from locust import stats


def keep_exact_times() -> None:
    """Make Locust count response times by the millisecond.

    By default Locust rounds to two digits, and from 10 s to whole seconds: 15,450 ms would read as 15,000 ms.
    The verdict does not use these statistics; with exact times they agree with it.
    """
    stats.bucket_response_time = _round_to_milliseconds


def _round_to_milliseconds(response_time: float) -> int:
    return round(response_time)
