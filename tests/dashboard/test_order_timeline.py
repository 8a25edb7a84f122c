"""The timeline of an order: bars, waiting times and marks."""

import pytest

from loadtest.charts.order import bars as timeline
from tests.dashboard.order_examples import ORDER_EVENTS, after, event, order_details


def test_each_attempt_and_the_review_have_a_bar():
    bars = [bar for bar in timeline.bars(order_details(*ORDER_EVENTS)) if bar.kind != timeline.WAITING]
    seen = [(bar.row, bar.kind, round(bar.start_seconds, 6), round(bar.end_seconds, 6)) for bar in bars]
    assert seen == [
        ("receive", "error", 0.1, 0.2),
        ("receive", "ok", 0.3, 0.5),
        ("charge", "timeout", 2.7, 3.0),
        ("charge", "ok", 3.0, 3.5),
        ("review", "review", 0.6, 2.6),
    ]


def test_gaps_between_bars_are_waiting_times():
    waiting = [bar for bar in timeline.bars(order_details(*ORDER_EVENTS)) if bar.kind == timeline.WAITING]
    assert [(round(bar.start_seconds, 6), round(bar.end_seconds, 6)) for bar in waiting] == [
        (0.0, 0.1),
        (0.2, 0.3),
        (0.5, 0.6),
        (2.6, 2.7),
        (3.5, 4.0),
    ]


def test_bars_and_waiting_times_cover_the_order_without_a_gap():
    bars = timeline.bars(order_details(*ORDER_EVENTS))
    assert sum(bar.end_seconds - bar.start_seconds for bar in bars) == pytest.approx(4.0)


def test_the_bar_of_a_running_attempt_ends_now():
    running = [{"step": "charge", "attempt": 2, "started_at": after(5), "worker": "w2"}]
    (bar,) = [
        bar
        for bar in timeline.bars(order_details(running_attempts=running, finished_at=None))
        if bar.kind == timeline.RUNNING
    ]
    assert (bar.start_seconds, bar.end_seconds, bar.attempt) == (5.0, 9.0, 2)


def test_an_undecided_review_ends_with_the_abort():
    details = order_details(event("state", 1.0, "in_review"), aborted_at=after(3.0))
    (bar,) = [bar for bar in timeline.bars(details) if bar.kind == timeline.REVIEW]
    assert (bar.start_seconds, bar.end_seconds) == (1.0, 3.0)
