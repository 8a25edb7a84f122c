"""View models: SLO status, component health, reviews, audit reports, order requests and disturbances."""

from datetime import timedelta

import pytest

from dashboard import page_elements
from dashboard.view_models.audit_report import invariants
from dashboard.view_models.component_health import LocalProcess, age_text, components
from dashboard.view_models.order_requests import (
    attempt_counts,
    can_be_approved,
    can_be_cancelled,
    can_be_rejected,
)
from dashboard.view_models.pipeline import stages
from dashboard.view_models.review_cards import contents, review_time
from dashboard.view_models.slo_status import slo_status
from db.domain import State
from db.maintenance.audit import MAX_VIOLATIONS
from db.read_models.latency import Disturbance
from db.read_models.order_search import OrderDetails
from loadtest.charts.disturbance_spans import DisturbanceSpan, disturbance_spans
from tests.dashboard.order_examples import NOON, after


@pytest.mark.parametrize(
    ("ms", "text"), [(15_450, "15.450 s"), (0, "0.000 s"), (None, "–"), (3_600_001, "3,600.001 s")]
)
def test_seconds_have_three_decimals(ms, text):
    assert page_elements.seconds(ms) == text


@pytest.mark.parametrize(("read_at", "left"), [(0.0, 8.5), (5.0, 3.5), (12.0, 0.0)])
def test_review_time_is_the_time_until_the_review_expires(read_at, left):
    order = {"accepted_at": NOON, "review_until": after(8.5), "read_at": after(read_at)}
    assert review_time(order) == (left, 8.5)


def test_contents_name_the_first_three_items_and_the_city():
    order = {
        "items": [{"sku": f"S{n}", "quantity": n} for n in (1, 2, 3, 4, 5)],
        "address": {"city": "Springfield"},
    }
    assert contents(order) == "1 × S1, 2 × S2, 3 × S3 and 2 more, to Springfield"


def test_the_span_of_a_stop_ends_at_the_start_of_the_same_component():
    disturbances = [
        Disturbance(None, after(0), "stop", "api"),
        Disturbance(None, after(5), "start", "postgres"),
        Disturbance(None, after(9), "start", "api"),
        Disturbance(None, after(20), "stop", "api"),
    ]
    assert disturbance_spans(disturbances, 15) == [
        DisturbanceSpan(after(0), after(9), "stop api"),
        DisturbanceSpan(after(5), after(5), "start postgres"),
        DisturbanceSpan(after(20), None, "stop api"),
    ]


@pytest.mark.parametrize("ending", ["restart", "kill"])
def test_a_restart_and_a_kill_end_a_stop_or_a_pause(ending):
    disturbances = [
        Disturbance(None, after(0), "stop", "api"),
        Disturbance(None, after(2), "pause", "postgres"),
        Disturbance(None, after(9), ending, "api"),
        Disturbance(None, after(11), ending, "postgres"),
    ]
    assert [(each.since, each.until, each.name) for each in disturbance_spans(disturbances, 15)] == [
        (after(0), after(9), "stop api"),
        (after(2), after(11), "pause postgres"),
        (after(9), after(24), f"{ending} api (+15 s)"),
        (after(11), after(26), f"{ending} postgres (+15 s)"),
    ]


def test_component_health_is_unknown_while_the_api_is_down():
    assert [(each.name, each.is_healthy) for each in components(None, [], NOON)] == [
        ("API", False), ("PostgreSQL", None), ("Temporal", None), ("Workers", None),
    ]  # fmt: skip


def test_component_health_is_that_of_the_health_report():
    report = {"database_connected": True, "temporal_connected": False, "workers_healthy": False}
    assert [(each.is_healthy, each.status, each.age) for each in components(report, [], NOON)] == [
        (True, "Up", None),
        (True, "Up", None),
        (False, "Not responding", None),
        (False, "No active workers", None),
    ]


def test_components_have_the_age_and_restarts_of_their_local_processes():
    report = {"database_connected": True, "temporal_connected": True, "workers_healthy": True}
    processes = [
        LocalProcess("postgres", "running", NOON, 0),
        LocalProcess("order-worker-1", "running", after(60), 2),
        LocalProcess("order-worker-2", "paused", NOON, 0),
        LocalProcess("dashboard", "exited", NOON, 1),
    ]
    found = {each.name: each[1:] for each in components(report, processes, after(65))}
    assert found["PostgreSQL"] == (True, "Up", timedelta(seconds=65), 0)
    assert found["Temporal"] == (True, "Up", None, None)
    assert found["order-worker-1"] == (True, "Up", timedelta(seconds=5), 2)
    assert found["order-worker-2"] == (False, "Paused", timedelta(seconds=65), 0)
    assert found["dashboard"] == (False, "Exited", None, 1)
    assert list(found)[:4] == ["API", "PostgreSQL", "Temporal", "Workers"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (7_199, "1 h"), (200_000, "2 d"), (None, "–")],
)
def test_an_age_has_one_unit(seconds, text):
    assert age_text(None if seconds is None else timedelta(seconds=seconds)) == text.replace(" ", "\u00a0")


def test_the_pipeline_has_the_steps_of_each_state():
    def row(finished: float, *ends: int | None, **more: object) -> dict:
        steps = ("receive", "validate", "review", "charge", "prepare", "dispatch")
        found = {f"{step}_end_ms": end for step, end in zip(steps, (*ends, *[None] * 6), strict=False)}
        return found | {"finished_at": after(finished)} | more

    rows = [
        row(10, 100, 300, 2_300, 2_400, receive_failures=2),
        row(20, 50, 250, 2_250, validate_failures=1),
        row(-1, 9_000, 9_900, receive_failures=70),
    ]
    found = stages({State.CHARGED: 4}, {State.COMPLETED: 7}, rows, NOON)
    assert [(each.state.value, each.orders) for each in found] == [
        ("received", 0), ("in_review", 0), ("approved", 0), ("charged", 4), ("prepared", 0),
        ("dispatched", 0),
        ("completed", 7), ("cancelled", 0), ("failed", 0),
    ]  # fmt: skip
    steps = {step.step.value: (step.median_ms, step.failed_attempts) for each in found for step in each.steps}
    assert steps == {
        "receive": (50, 2), "validate": (200, 1), "review": (2_000, 0), "charge": (100, 0),
        "prepare": (None, 0), "dispatch": (None, 0),
    }  # fmt: skip


def test_violations_are_grouped_by_invariant():
    report = {
        "invariants": [
            {"number": 1, "text": "one", "holds": True},
            {"number": 2, "text": "two", "holds": False},
        ],
        "violations": [{"invariant": 2, "order_id": "o", "finding": "f", "evidence": {"x": 1}}],
    }
    one, two = invariants(report)
    assert (one.holds, one.violations, one.status) == (True, [], "holds")
    assert ([violation["order_id"] for violation in two.violations], two.status) == (["o"], "1 violation")


def test_a_report_with_the_maximum_of_violations_says_at_least():
    many = [
        {"invariant": 1, "order_id": f"o-{n}", "finding": "f", "evidence": {}} for n in range(MAX_VIOLATIONS)
    ]
    (invariant,) = invariants(
        {"invariants": [{"number": 1, "text": "one", "holds": False}], "violations": many}
    )
    assert invariant.status == f"at least {MAX_VIOLATIONS} violations"


@pytest.mark.parametrize(
    ("state", "abort_reason", "cancel", "review"),
    [
        ("received", None, True, True),
        ("in_review", None, True, True),
        ("approved", None, True, False),
        ("prepared", None, True, False),
        ("dispatched", None, False, False),
        ("completed", None, False, False),
        ("charged", "customer_cancelled", False, False),
        ("in_review", "review_expired", False, False),
    ],
)
def test_requests_are_offered_only_while_they_can_succeed(state, abort_reason, cancel, review):
    details = OrderDetails({"state": state, "abort_reason": abort_reason}, [], [])
    assert can_be_cancelled(details.order) == cancel
    assert can_be_approved(details) == can_be_rejected(details.order) == review


def test_an_order_approved_before_its_review_can_only_be_rejected():
    approval = {"kind": "signal", "detail": {"signal": "approve_order", "accepted": True, "reviewer": "ann"}}
    other = {"kind": "signal", "detail": {"signal": "update_address", "accepted": True}}
    order = {"state": "received", "abort_reason": None}
    assert not can_be_approved(OrderDetails(order, [other, approval], []))
    assert can_be_approved(OrderDetails(order, [other], []))
    assert can_be_rejected(order)


def test_attempts_of_a_running_order_are_counted_from_its_events():
    ended = [{"kind": "attempt", "outcome": outcome} for outcome in ("ok", "error", "timeout")]
    running = {"attempts": None, "failed_attempts": None}
    assert attempt_counts(OrderDetails(running, [*ended, {"kind": "state"}], [{"step": "charge"}])) == (4, 2)
    assert attempt_counts(OrderDetails({"attempts": 9, "failed_attempts": 3}, ended, [])) == (9, 3)


@pytest.mark.parametrize(
    ("orders", "late", "verdict"),
    [(0, 0, None), (60, 0, "not proven"), (300, 0, "met"), (300, 1, "not proven"), (300, 4, "breached")],
)
def test_the_slo_verdict_depends_on_the_late_orders(orders, late, verdict):
    assert slo_status(orders, late, 0.99).verdict == verdict


@pytest.mark.parametrize(
    ("orders", "late", "headline"),
    [
        (0, 0, "No order finished in this time window."),
        (60, 0, "SLO not proven: 60 of 60 orders were within their limit; 239 more, all on time, would prove "
         "the target of 99 %."),
        (1_000, 1, "SLO met: 999 of 1,000 orders were within their limit (99.90 %); the target is 99 %."),
        (1_000, 11, "SLO breached: 989 of 1,000 orders were within their limit (98.90 %); "
         "the target is 99 %."),
    ],
)  # fmt: skip
def test_the_headline_says_whether_the_target_is_met(orders, late, headline):
    assert slo_status(orders, late, 0.99).headline == headline


def test_the_slo_detail_has_the_error_budget():
    assert slo_status(0, 0, 0.99).detail == "The target is 99 % within the limit."
    assert slo_status(1_000, 5, 0.99).detail.endswith("Error budget: 10.0 late orders, 50 % used.")
