"""What Temporal's UI shows about an order: summaries and current details."""

from datetime import UTC, datetime

import pytest

from db.domain import Reason, RequestResult, State, Step
from orchestrator.messages.activities import (
    AbortRequest,
    ApproveRequest,
    FinishRequest,
    RequestEvent,
    StepBatchRequest,
    StepRequest,
    StepResult,
    StepStatus,
)
from orchestrator.workflows.descriptions import activity_summary, order_details, shipment_details
from orchestrator.workflows.order_progress import OrderProgress
from tests.orders import new_order

NOW = datetime(2030, 1, 1, 12, 0, 4, 500_000, tzinfo=UTC)
DEADLINE = datetime(2030, 1, 1, 12, 0, 15, tzinfo=UTC)


def rows(details: str) -> dict[str, str]:
    """Return the rows of a Markdown table with two columns and an empty head."""
    head, line, *lines = details.splitlines()
    assert (head, line) == ("| | |", "|---|---|")
    return dict(tuple(cell.strip() for cell in each.strip("|").split(" | ", 1)) for each in lines)


def charged() -> OrderProgress:
    progress = OrderProgress()
    for step in (Step.RECEIVE, Step.VALIDATE, Step.REVIEW, Step.CHARGE):
        progress.step_started(step)
        progress.step_done(step)
    return progress


def test_the_details_of_a_running_order():
    progress = charged()
    progress.step_ended(Step.RECEIVE, StepResult(StepStatus.DONE, 1))
    progress.step_ended(Step.CHARGE, StepResult(StepStatus.DONE, 3, "charge failed (simulated)"))
    progress.step_started(Step.PREPARE)
    assert rows(order_details(progress, DEADLINE, NOW)) == {
        "State": "charged",
        "Time left": "10.5 s at 12:00:04 UTC; deadline 12:00:15 UTC",
        "Step": "prepare",
        "Attempts": "receive 1, charge 3",
        "Gateway errors": "charge: charge failed (simulated)",
    }


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda _: None, "charged"),
        (
            lambda progress: progress.sync_from(
                RequestResult(True, "", State.CHARGED, Reason.CUSTOMER_CANCELLED, [Step.REFUND])
            ),
            "compensating (customer_cancelled)",
        ),
        (lambda progress: progress.finish(State.COMPLETED), "completed"),
    ],
)
def test_the_state_follows_the_progress(change, state):
    progress = charged()
    change(progress)
    shown = rows(order_details(progress, DEADLINE, NOW))
    assert shown["State"] == state
    assert ("Time left" in shown) is (progress.outcome is None)


def test_a_new_order_is_received_and_then_in_review():
    progress = OrderProgress()
    assert rows(order_details(progress, DEADLINE, NOW))["State"] == "received"
    progress.step_started(Step.REVIEW)
    assert rows(order_details(progress, DEADLINE, NOW))["State"] == "in_review"


def test_text_of_a_gateway_stays_in_its_cell():
    progress = OrderProgress()
    progress.step_ended(
        Step.PREPARE, StepResult(StepStatus.OUT_OF_TIME, 2, "a | b\nsecond\\ line" + "x" * 999)
    )
    shown = rows(shipment_details(progress, 2))
    assert shown["Shipment"] == "2"
    assert shown["Gateway errors"].startswith("prepare: a \\| b second\\\\ linexxx")
    assert len(shown["Gateway errors"]) < 300


def test_each_change_of_the_progress_is_shown():
    seen = []
    progress = OrderProgress(lambda: seen.append(progress.current_step))
    progress.step_started(Step.CHARGE)
    progress.finish(State.COMPLETED)
    assert seen == [Step.CHARGE, None]


def test_the_summary_of_an_order_fits_into_temporals_limit():
    order = new_order(order_id="o" * 64, run_id="r" * 64)
    assert order.summary == f"order {order.order_id}, 42.00 USD, run {order.run_id}"
    assert len(order.summary.encode()) < 400


def test_the_summaries_of_activities():
    order, step = new_order(), StepRequest("o", Step.CHARGE, DEADLINE)
    opening = order.new_order("run", NOW)
    approval = ApproveRequest("o", "auto-review")
    assert [
        activity_summary(request)
        for request in (
            StepBatchRequest(1.2, opening, None, [step]),
            StepBatchRequest(1.2, None, approval, [step]),
            step,
            StepRequest("o", Step.REFUND),
            AbortRequest("o", Reason.DEADLINE, "x" * 200, "y" * 200),
            FinishRequest("o", State.COMPLETED),
            RequestEvent("o", "approve_order", True, {}),
            opening,
        )
    ] == [
        "open, charge", "approve, charge", "no attempt after 12:00:15 UTC", "repeated until it succeeds",
        "deadline", "completed", "approve_order", "",
    ]  # fmt: skip
