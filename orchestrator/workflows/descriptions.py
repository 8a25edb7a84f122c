"""Texts about an order that Temporal's UI shows: summaries of activities and details of workflows."""

from datetime import datetime
from typing import Any

from db.domain import Reason, State, Step
from db.transitions import STATE_MACHINE
from orchestrator.messages.activities import (
    AbortRequest,
    FinishRequest,
    RequestEvent,
    StepBatchRequest,
    StepRequest,
)
from orchestrator.workflows.order_progress import OrderProgress

MAX_ERROR_LENGTH = 200


def activity_summary(request: Any) -> str:
    """Return one line about an activity, without text of customers: Temporal rejects more than 400 bytes."""
    match request:
        case StepBatchRequest():
            parts = ["open"] * (request.open is not None) + ["approve"] * (request.approve is not None)
            return ", ".join([*parts, *(step.step.value for step in request.steps)])
        case StepRequest(not_after=None):
            return "repeated until it succeeds"
        case StepRequest(not_after=datetime() as not_after):
            return f"no attempt after {_time(not_after)}"
        case AbortRequest():
            return request.reason.value
        case FinishRequest():
            return request.outcome.value
        case RequestEvent():
            return request.signal
        case _:
            return ""


def order_details(progress: OrderProgress, deadline_at: datetime, now: datetime) -> str:
    """Return the current details of an OrderWorkflow, as a Markdown table."""
    rows = {"State": _state(progress)}
    if progress.outcome is None:
        left_seconds = (deadline_at - now).total_seconds()
        rows["Time left"] = f"{left_seconds:.1f} s at {_time(now)}; deadline {_time(deadline_at)}"
    return _table(rows | _steps(progress))


def shipment_details(progress: OrderProgress, n: int) -> str:
    """Return the current details of a ShippingWorkflow, as a Markdown table."""
    return _table({"Shipment": str(n)} | _steps(progress))


def _state(progress: OrderProgress) -> str:
    if progress.outcome is not None:
        return _with_reason(progress.outcome.value, progress.abort_reason)
    if progress.abort_reason is not None:
        return _with_reason("compensating", progress.abort_reason)
    if progress.current_step is Step.REVIEW:
        return State.IN_REVIEW.value
    transitions = [STATE_MACHINE.of(step) for step in progress.completed_steps]
    states = [State.RECEIVED, *(each.state_after for each in transitions if each is not None)]
    return states[-1].value


def _with_reason(state: str, reason: Reason | None) -> str:
    return state if reason is None else f"{state} ({reason.value})"


def _steps(progress: OrderProgress) -> dict[str, str]:
    rows = {"Step": progress.current_step.value if progress.current_step else "none"}
    rows["Attempts"] = ", ".join(f"{step.value} {count}" for step, count in progress.attempts.items())
    rows["Gateway errors"] = "; ".join(f"{step.value}: {_cell(e)}" for step, e in progress.errors.items())
    return {name: text or "none" for name, text in rows.items()}


def _cell(text: str) -> str:
    """Return text of a gateway for a cell of a Markdown table."""
    return " ".join(text.split())[:MAX_ERROR_LENGTH].replace("\\", "\\\\").replace("|", "\\|")


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


def _time(at: datetime) -> str:
    return f"{at:%H:%M:%S} UTC"
