"""Builds the JSON of responses from the read models."""

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from db.domain import State, Step
from db.fault_profiles import FaultChange
from db.read_models.latency_report import LatencyFilter, LatencySummary, Spread
from db.read_models.order_details import Event, OrderSummary, PageKey, StoredOrder
from orchestrator.api.schemas.requests import CURSOR_PATTERN
from orchestrator.errors import RequestMalformed
from orchestrator.gateways.fault_injection import named_profile
from orchestrator.workflow_ids import order_workflow_id

Json = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(time: datetime, timespec: str = "milliseconds") -> str:
    """Return the time in UTC with the suffix Z."""
    return time.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def _optional_time(time: datetime | None, timespec: str = "milliseconds") -> str | None:
    return None if time is None else rfc3339(time, timespec)


def order_status(stored: StoredOrder) -> Json:
    order = stored.summary
    result = None
    if order.state is State.COMPLETED:
        result = {
            "outcome": order.state,
            "tracking": stored.tracking,
            "amount_cents": order.amount_cents,
            "completion_ms": order.completion_ms,
        }
    return _summary(order) | {
        "completed_steps": stored.completed_steps,
        "retries": stored.retries,
        "recent_errors": [
            asdict(failure) | {"at": rfc3339(failure.at)} for failure in stored.recent_failures
        ],
        "result": result,
        "error": _error(order, stored.abort_message),
    }


def accepted_order(order_id: str, run_id: str | None, accepted_at: datetime, deadline_at: datetime) -> Json:
    """Return the status of an order that Temporal has accepted and no worker has recorded."""
    return {
        "workflow_id": order_workflow_id(order_id),
        "order_id": order_id,
        "run_id": run_id,
        "status": "running",
        "state": State.RECEIVED,
        "current_step": Step.RECEIVE,
        "reason": None,
        "created_at": rfc3339(accepted_at),
        "updated_at": rfc3339(accepted_at),
        "deadline_at": rfc3339(deadline_at),
        "completion_ms": None,
        "within_limit": None,
        "completed_steps": [],
        "retries": {},
        "recent_errors": [],
        "result": None,
        "error": None,
    }


def order_summary(order: OrderSummary) -> Json:
    return _summary(order) | {"amount_cents": order.amount_cents}


def _summary(order: OrderSummary) -> Json:
    return {
        "workflow_id": order_workflow_id(order.order_id),
        "order_id": order.order_id,
        "run_id": order.run_id,
        "status": order.state.value if order.state.is_terminal else "running",
        "state": order.state,
        "current_step": order.current_step,
        "reason": order.reason,
        "created_at": rfc3339(order.accepted_at),
        "updated_at": rfc3339(order.last_event_at),
        "deadline_at": rfc3339(order.deadline_at),
        "completion_ms": order.completion_ms,
        "within_limit": order.within_limit,
    }


def _error(order: OrderSummary, message: str) -> str | None:
    if order.state not in (State.CANCELLED, State.FAILED) or order.reason is None:
        return None
    return f"{order.reason}: {message}" if message else order.reason.value


def event_json(event: Event) -> Json:
    # Events of one order can be less than a millisecond apart.
    return asdict(event) | {
        "at": rfc3339(event.at, "microseconds"),
        "started_at": _optional_time(event.started_at, "microseconds"),
    }


def latency_json(summary: LatencySummary, selected: LatencyFilter) -> Json:
    parts = {name: _spread(spread) for name, spread in summary.parts.items()}
    return {
        "run_id": selected.run_id,
        "since": _optional_time(selected.since),
        "until": _optional_time(selected.until),
        "count": summary.finished,
        "late": summary.late,
        "open": summary.open,
        "overdue": summary.overdue,
        "outcomes": summary.outcomes,
        "completion_ms": parts.pop("completion", None),
        "end_to_end_ms": parts.pop("end_to_end", None),
        "steps_ms": parts,
    }


def _spread(spread: Spread) -> Json:
    return {"mean": spread.mean, **spread.percentiles}


def fault_profile(change: FaultChange | None) -> Json:
    """Return the profile of a change, or profile `none` before the first change."""
    if change is None:
        none = named_profile("none")
        return {"profile": none.name, "seed": none.seed, "rates": none.to_json(), "since": None}
    return {
        "profile": change.profile,
        "seed": change.seed,
        "rates": change.rates,
        "since": rfc3339(change.at),
    }


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
