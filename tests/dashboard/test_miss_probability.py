"""The probability that an order in flight misses its limit."""

from datetime import timedelta

import pytest

from dashboard.view_models.miss_probability import (
    MIN_REFERENCE_ORDERS,
    STEPS,
    MissProbability,
    reference_orders,
)
from db.read_models.latency import FaultSpan
from tests.bench import calibration
from tests.dashboard.order_examples import NOON, after

ENDS = ("receive", "validate", "review", "charge", "prepare", "dispatch")


def reference(*ends_ms: int | None, completion_ms: int, review: str = "auto", **more: object) -> dict:
    """An order with the ends of its steps."""
    ends = dict(zip(ENDS, (*ends_ms, *[None] * 6), strict=False))
    row = {f"{step}_end_ms": end for step, end in ends.items()}
    return row | {"completion_ms": completion_ms, "aborted_ms": None, "review": review} | more


def in_flight(step: str, elapsed_ms: int, limit_ms: int = 4_000, **more: object) -> dict:
    order = {"current_step": step, "elapsed_ms": elapsed_ms, "limit_ms": limit_ms}
    return order | {"abort_reason": None, "review": "auto"} | more


FAST = reference(10, 20, 2_000, 2_100, 2_200, 2_300, completion_ms=2_310)
SLOW = reference(10, 20, 2_000, 4_000, 4_100, 4_200, completion_ms=4_210)


def test_an_order_that_is_slow_in_the_same_step_is_likely_late() -> None:
    model = MissProbability.of([*[FAST] * 100, *[SLOW] * 100])
    assert model.of_order(in_flight("review", 1_000)) == pytest.approx(0.5, abs=0.05)
    # All orders that were in this step at that time were late, and none in a later step at an earlier time.
    assert model.of_order(in_flight("charge", 3_000)) > 0.85
    assert model.of_order(in_flight("dispatch", 2_250)) < 0.35
    assert model.of_order(in_flight("charge", 3_000, limit_ms=5_000)) < 0.1


def test_an_order_past_its_limit_is_late_without_any_reference_order() -> None:
    assert MissProbability.of([]).of_order(in_flight("charge", 4_000)) == 1.0


def test_the_probability_is_unknown_with_few_reference_orders() -> None:
    order = in_flight("charge", 2_050)
    assert MissProbability.of([FAST] * (MIN_REFERENCE_ORDERS - 1)).of_order(order) is None
    assert MissProbability.of([FAST] * MIN_REFERENCE_ORDERS).of_order(order) is not None


def test_orders_without_events_are_no_reference() -> None:
    assert MissProbability.of([reference(completion_ms=900)] * 50).of_order(in_flight("charge", 500)) is None


def test_an_elapsed_time_without_reference_orders_uses_the_other_times_of_the_step() -> None:
    model = MissProbability.of([FAST] * 100)
    assert model.of_order(in_flight("charge", 3_900, limit_ms=15_000)) < 0.01
    assert model.of_order(in_flight("charge", 3_900)) > 0.8


def test_a_manual_review_is_compared_with_manual_reviews_only() -> None:
    manual = reference(10, 20, 9_000, 9_100, 9_200, 9_300, completion_ms=9_310, review="manual")
    order = in_flight("review", 1_000, review="manual")
    assert MissProbability.of([FAST] * 100).of_order(order) is None
    model = MissProbability.of([*[FAST] * 100, *[manual] * 100])
    assert model.of_order(order) > 0.9
    assert model.of_order(in_flight("review", 1_000)) < 0.1
    assert model.of_order(in_flight("dispatch", 3_000, limit_ms=9_000, review="manual")) < 0.1


def test_compensation_is_a_step_of_aborted_orders() -> None:
    aborted = reference(10, 20, completion_ms=5_000, aborted_ms=1_000)
    model = MissProbability.of([*[aborted] * 100, *[FAST] * 100])
    order = in_flight("refund", 1_500, abort_reason="customer_cancelled")
    assert model.of_order(order) > 0.9
    assert model.of_order(order | {"limit_ms": 8_000}) < 0.1


def test_waiting_belongs_to_the_step_for_which_the_order_waits() -> None:
    queued = reference(3_000, 3_010, 5_000, 5_100, 5_200, 5_300, completion_ms=5_310)
    model = MissProbability.of([*[queued] * 100, *[FAST] * 100])
    assert model.of_order(in_flight("receive", 1_000)) > 0.9


def test_reference_orders_had_the_active_profile_and_are_older_than_the_limit() -> None:
    def row(order_id: str, profile: str, at: float) -> dict:
        return {"order_id": order_id, "fault_profile": profile, "accepted_at": after(at)}

    rows = [row("a", "none", 0), row("b", "none", 50), row("c", "mine", 0), row("d", "mine", 20)]

    def ids(active: FaultSpan | None) -> list[str]:
        return [each["order_id"] for each in reference_orders(rows, active, after(40))]

    assert ids(None) == ["a"]
    assert ids(FaultSpan("none", 0, after(10), None)) == ["a"]
    # Earlier rates of a custom profile may have been others.
    assert ids(FaultSpan("mine", 0, NOON + timedelta(seconds=10), None)) == ["d"]
    assert ids(FaultSpan("assignment", 0, NOON, None)) == []


def test_the_steps_are_those_of_the_state_machine() -> None:
    assert STEPS[:-1] == ENDS


FITTED = calibration.read(calibration.FIT)
HELD_OUT = calibration.read(calibration.HELD_OUT)


@pytest.mark.parametrize("limit_ms", [3_000, 4_000, 5_500])
@pytest.mark.parametrize(("fit", "held_out"), [(FITTED, HELD_OUT), (HELD_OUT, FITTED)], ids=["one", "other"])
def test_the_estimate_from_one_load_test_is_calibrated_on_another(fit, held_out, limit_ms: float) -> None:
    found = calibration.calibration(fit, held_out, limit_ms)
    assert found.unknown == 0
    assert found.brier < 0.9 * found.base_rate_brier
    assert found.calibration_error < 0.06


def test_the_estimate_from_few_orders_is_better_than_the_base_rate() -> None:
    found = calibration.calibration(FITTED[:60], HELD_OUT)
    assert found.brier < found.base_rate_brier


def test_a_forecast_that_ignores_the_orders_fails_the_comparison() -> None:
    """The comparison has to detect a wrong estimate: here the results of other orders."""
    shuffled = [
        row | {"completion_ms": other["completion_ms"]}
        for row, other in zip(HELD_OUT, reversed(HELD_OUT), strict=True)
    ]
    found = calibration.calibration(FITTED, shuffled)
    assert found.brier > 0.9 * found.base_rate_brier


def test_the_report_has_the_reliability_curve() -> None:
    found = calibration.calibration(FITTED, HELD_OUT)
    assert sum(each.forecasts for each in found.bins) == len(found.late)
    assert f"Brier score {found.brier:.4f}" in calibration.report(found)
