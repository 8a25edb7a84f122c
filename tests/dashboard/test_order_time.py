"""How an order spent its time: the parts sum to the total, in the sentence too."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dashboard.view_models import order_tables
from db.read_models import order_search
from loadtest.bench.seed import random_order_ids
from loadtest.charts.order.time_parts import explanation, order_time
from loadtest.charts.time_breakdown import SEGMENTS
from tests.dashboard.conftest import query, some_run
from tests.dashboard.order_examples import ORDER_EVENTS, after, attempt, event, order_details

NONE = dict.fromkeys(f"{part}_ms" for part in SEGMENTS) | {"completion_ms": None, "review": "auto"}
"""The time columns of an open order."""


def finished(state: str = "completed", *events: dict, limit: float = 15, **parts_ms: int):
    known = {f"{part}_ms": parts_ms.get(part, 0) for part in SEGMENTS}
    total_ms = sum(known.values())
    return order_details(
        *events,
        state=state, review="auto", completion_ms=total_ms, finished_at=after(total_ms / 1000),
        limit_at=after(limit), **known,
    )  # fmt: skip


def open_order(*events: dict, read_at: float, state: str = "received", **more: object):
    return order_details(
        *events, **NONE | {"state": state, "finished_at": None, "read_at": after(read_at)} | more
    )


def test_a_finished_order_is_explained_by_its_stored_parts():
    attempts = [attempt("validate", n, "error" if n < 5 else "ok", n / 10, 100) for n in range(1, 6)]
    details = finished("completed", *attempts, review=2_000, validate=950, waiting=630)
    assert explanation(details) == (
        "Completed in 3.580 s: 2.000 s review, 0.950 s in five attempts of validate, 0.630 s waiting."
    )


def test_small_parts_are_summed_up():
    details = finished("completed", review=2_000, receive=20, validate=7, waiting=30)
    assert explanation(details) == (
        "Completed in 2.057 s: 2.000 s review, 0.057 s in the rest (waiting, receive, validate)."
    )


def test_a_late_order_says_by_how_much():
    details = finished("completed", attempt("charge", 1, "ok", 0, 4_000), charge=4_000, limit=3.5)
    assert explanation(details) == "Completed in 4.000 s: 4.000 s in one attempt of charge. Late by 0.500 s."


def test_a_cancelled_order_names_its_compensations():
    events = (
        attempt("recall", 1, "ok", 2.5, 100),
        attempt("refund", 1, "error", 2.6, 100),
        attempt("refund", 2, "ok", 2.7, 100),
    )
    details = finished("cancelled", *events, review=2_000, compensate=300)
    assert explanation(details) == (
        "Cancelled after 2.300 s: 2.000 s review, 0.300 s in three attempts of recall and refund."
    )


def test_time_of_lost_attempts_is_waiting_time():
    events = (attempt("charge", 1, "lost", 0.5, 3_000), attempt("charge", 2, "ok", 3.5, 500))
    details = finished("failed", *events, charge=500, waiting=3_500)
    assert explanation(details) == (
        "Failed after 4.000 s: 3.500 s waiting (one attempt lost with the worker), "
        "0.500 s in two attempts of charge."
    )


def test_attempts_without_events_are_counted():
    details = finished("completed", attempt("charge", 1_024, "ok", 1, 500), charge=500)
    assert "in 1,024 attempts of charge" in explanation(details)


def test_an_order_whose_events_were_deleted_is_explained_without_attempts():
    details = finished("completed", charge=700, review=300)
    assert explanation(details) == "Completed in 1.000 s: 0.700 s charge, 0.300 s review."


def test_an_open_order_is_explained_up_to_now():
    running = [{"step": "prepare", "attempt": 2, "started_at": after(4.5), "worker": "w"}]
    details = open_order(
        *ORDER_EVENTS, attempt("prepare", 1, "error", 3.5, 500), read_at=5, running_attempts=running
    )
    assert order_time(details).parts_ms == {
        "receive": 300, "validate": 0, "review": 2_000, "charge": 800, "prepare": 1_000, "dispatch": 0,
        "compensate": 0, "waiting": 900,
    }  # fmt: skip
    assert explanation(details).startswith(
        "Open for 5.000 s: 2.000 s review, 1.000 s in two attempts of prepare, still running, "
    )


def test_an_open_order_counts_lost_attempts_and_work_after_its_abort_as_waiting():
    events = (
        attempt("charge", 1, "lost", 0, 1_000),
        attempt("charge", 2, "ok", 1.0, 1_000),
        attempt("refund", 1, "error", 2.5, 500),
    )
    details = open_order(*events, read_at=4, aborted_at=after(1.5))
    found = order_time(details)
    assert (found.parts_ms["charge"], found.parts_ms["compensate"]) == (500, 500)
    assert found.parts_ms["waiting"] == 3_000


def test_a_manual_review_is_named():
    details = open_order(event("state", 1.0, "in_review"), read_at=6, state="in_review", review="manual")
    assert explanation(details) == "Open for 6.000 s: 5.000 s manual review, 1.000 s waiting."


def test_an_order_without_any_time_is_explained():
    assert explanation(open_order(read_at=0)) == "Open for 0.000 s."


@given(some.lists(some.integers(0, 20_000), min_size=len(SEGMENTS), max_size=len(SEGMENTS)))
def test_the_times_in_the_sentence_sum_to_the_total(times_ms):
    sentence = explanation(finished("completed", limit=1_000, **dict(zip(SEGMENTS, times_ms, strict=True))))
    found = re.findall(r"[\d,]+\.\d{3}", sentence)
    total, *parts = (round(float(text.replace(",", "")) * 1000) for text in found)
    assert total == sum(times_ms) == sum(parts)


def spans(*steps: str):
    outcomes = some.sampled_from(["ok", "error", "lost"])
    return some.lists(some.tuples(some.sampled_from(steps), outcomes, some.floats(0, 4_000)), max_size=5)


@given(spans("receive", "validate", "charge"), some.floats(0, 1), spans("recall", "refund"))
def test_the_parts_of_an_open_order_sum_to_its_time(forward, aborted_share, compensations):
    events, start = [], 0.0
    for number, (step, outcome, ms) in enumerate(forward, start=1):
        events.append(attempt(step, number, outcome, start, ms))
        start += ms / 1000
    aborted_at = start * aborted_share
    # Recall and refund overlap.
    events += [
        attempt(step, n, outcome, aborted_at, ms) for n, (step, outcome, ms) in enumerate(compensations)
    ]
    found = order_time(open_order(*events, read_at=15, aborted_at=after(aborted_at)))
    assert found.total_ms == 15_000 == sum(found.parts_ms.values())
    assert min(found.parts_ms.values()) >= 0


def test_the_time_of_an_open_order_becomes_its_stored_time(seeded, seeded_url):
    for order_id in random_order_ids(seeded_url, 40):
        details = order_search.order_details(seeded, order_id)
        still_open = {"completion_ms": None, "finished_at": None, "read_at": details.order["finished_at"]}
        before = order_time(replace(details, order=details.order | still_open))
        after_outcome = order_time(details)
        assert before.total_ms == after_outcome.total_ms
        for part, ms in after_outcome.parts_ms.items():
            assert before.parts_ms[part] == pytest.approx(ms, abs=4), (order_id, part)


def test_the_median_order_of_a_run_is_the_order_with_the_median_time(seeded, seeded_url):
    run_id = some_run(seeded)
    (truth,) = query(
        seeded_url,
        "select percentile_disc(0.5) within group (order by completion_ms) as ms from orders"
        " where run_id = %(id)s",
        {"id": run_id},
    )
    found = order_search.median_order(seeded, run_id)
    assert found["completion_ms"] == truth["ms"] == sum(found[f"{part}_ms"] for part in SEGMENTS)
    assert order_search.median_order(seeded, "unknown") is None


def test_the_comparison_with_the_median_order_has_every_part_and_the_total():
    time = order_time(finished("completed", review=2_000, charge=500))
    median = dict.fromkeys((f"{part}_ms" for part in SEGMENTS), 0) | {"review_ms": 2_000, "waiting_ms": 40}
    table = order_tables.comparison(time, median | {"completion_ms": 2_040})
    assert table.values.tolist() == [
        ["review", 2.0, 2.0, 0.0],
        ["charge", 0.5, 0.0, 0.5],
        ["waiting", 0.0, 0.04, -0.04],
        ["total", 2.5, 2.04, pytest.approx(0.46)],
    ]
