"""Messages of the workflows: arguments, results, signals and updates.

Plain dataclasses: Temporal's default JSON converter reads and writes them, so any Temporal tool can send a
signal as a JSON object with the same field names.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from db.domain import (
    MAX_ORDER_LINES,
    MAX_QUANTITY,
    MAX_UNIT_PRICE_CENTS,
    ORDER_ID_PATTERN,
    SAMPLE_ITEMS,
    Address,
    Item,
    Reason,
    ReviewMode,
    State,
    Step,
    text_problems,
)

MAX_LIMIT_SECONDS = 3_600.0


@dataclass(frozen=True)
class OrderRequest:
    """The argument of `OrderWorkflow`: one order as the customer placed it.

    `requested_at` is the moment the order was due, which an open-loop load test sets before it sends;
    `limit_seconds` is the time from acceptance to the outcome.
    """

    order_id: str
    initial_address: Address
    payment_id: str
    requested_at: datetime
    items: list[Item] = field(default_factory=lambda: list(SAMPLE_ITEMS))
    review: ReviewMode = ReviewMode.AUTO
    auto_review_seconds: float = 2.0
    limit_seconds: float = 15.0
    run_id: str | None = None
    shipping_task_queue: str = "shipping-tq"

    @property
    def amount_cents(self) -> int:
        return sum(item.price_cents for item in self.items)

    @property
    def has_usable_limit(self) -> bool:
        return 0 < self.limit_seconds <= MAX_LIMIT_SECONDS

    def problems(self) -> list[str]:
        """What is wrong with the order's content, in plain words; empty when it can be carried out."""
        found = self.initial_address.problems()
        if not re.fullmatch(ORDER_ID_PATTERN, self.order_id):
            found.append("order_id must be 1 to 64 letters, digits, '-' or '_'")
        found += text_problems(payment_id=self.payment_id, shipping_task_queue=self.shipping_task_queue)
        if self.run_id is not None:
            found += text_problems(run_id=self.run_id)
        if self.requested_at.tzinfo is None:
            found.append("requested_at has no time zone")
        if not self.has_usable_limit:
            found.append(f"limit_seconds must be above 0 and at most {MAX_LIMIT_SECONDS:.0f}")
        if not 0 <= self.auto_review_seconds <= MAX_LIMIT_SECONDS:
            found.append(f"auto_review_seconds must be 0 to {MAX_LIMIT_SECONDS:.0f}")
        if not 1 <= len(self.items) <= MAX_ORDER_LINES:
            found.append(f"an order has 1 to {MAX_ORDER_LINES} lines, this one has {len(self.items)}")
        for number, item in enumerate(self.items, start=1):
            found += [f"line {number}: {problem}" for problem in text_problems(sku=item.sku)]
            if not 1 <= item.quantity <= MAX_QUANTITY:
                found.append(f"line {number}: quantity must be 1 to {MAX_QUANTITY}")
            if not 0 <= item.unit_price_cents <= MAX_UNIT_PRICE_CENTS:
                found.append(f"line {number}: unit_price_cents must be 0 to {MAX_UNIT_PRICE_CENTS}")
        return found


@dataclass(frozen=True)
class CancelOrder:
    reason: str
    cancelled_by: str

    def problems(self) -> list[str]:
        return text_problems(reason=self.reason, cancelled_by=self.cancelled_by)


@dataclass(frozen=True)
class UpdateAddress:
    new_address: Address
    updated_by: str

    def problems(self) -> list[str]:
        return self.new_address.problems() + text_problems(updated_by=self.updated_by)


@dataclass(frozen=True)
class ApproveOrder:
    reviewer: str

    def problems(self) -> list[str]:
        return text_problems(reviewer=self.reviewer)


@dataclass(frozen=True)
class RejectOrder:
    reviewer: str
    reason: str

    def problems(self) -> list[str]:
        return text_problems(reviewer=self.reviewer, reason=self.reason)


@dataclass(frozen=True)
class DispatchFailed:
    """The shipping child could not hand the parcel to the carrier."""

    reason: str
    attempts: int


@dataclass(frozen=True)
class RequestResult:
    """What a request about a running order was answered: accepted, or too late and why.

    `state` and `abort_reason` are how the books stood at that moment; `to_undo` is what had been tried of
    an order that is turned back, and cannot be tried any more.
    """

    accepted: bool
    message: str
    state: State
    abort_reason: Reason | None = None
    to_undo: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class OrderStatus:
    """The answer of the `status` query."""

    order_id: str
    current_step: Step | None
    completed_steps: list[Step]
    abort_reason: Reason | None
    outcome: State | None
    deadline_at: datetime


class Activity(StrEnum):
    """The names under which workflows know the activities, so that they need not import them."""

    RUN_STEP_BATCH = "RunStepBatch"
    OPEN = "OpenOrder"
    RECEIVE = "ReceiveOrder"
    VALIDATE = "ValidateOrder"
    CHARGE = "ChargePayment"
    PREPARE = "PreparePackage"
    DISPATCH = "DispatchCarrier"
    RECALL = "RecallShipment"
    REFUND = "RefundPayment"
    APPROVE = "ApproveOrder"
    CHANGE_ADDRESS = "ChangeAddress"
    ABORT = "AbortOrder"
    RECORD_REQUEST_EVENT = "RecordRequestEvent"
    FINISH = "FinishOrder"


class StepStatus(StrEnum):
    """How a step ended, seen from the workflow."""

    DONE = "done"
    DECLINED = "declined"
    ABORTED = "aborted"
    OUT_OF_TIME = "out_of_time"
    UNFINISHED = "unfinished"


@dataclass(frozen=True)
class StepRequest:
    """One step of one order, to be carried out by an activity.

    `not_after` is the moment after which no attempt may start (None: never give up);
    `time_budget_seconds` is how long the activity itself may go on trying before it hands back UNFINISHED.
    """

    order_id: str
    step: Step
    not_after: datetime | None = None
    time_budget_seconds: float | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class StepResult:
    status: StepStatus
    attempts: int = 0
    message: str = ""


@dataclass(frozen=True)
class OpenRequest:
    """Take an order into the books."""

    order: OrderRequest
    workflow_run_id: str
    accepted_at: datetime
    deadline_at: datetime


@dataclass(frozen=True)
class StepBatchRequest:
    """What a worker is to do for an order in one go: one after the other, as long as each succeeds.

    `time_budget_seconds` is for all of it together.
    """

    order_id: str
    time_budget_seconds: float
    open: "OpenRequest | None" = None
    approve: "ApproveRequest | None" = None
    steps: list[StepRequest] = field(default_factory=list)


@dataclass(frozen=True)
class StepBatchResult:
    """How far it came: the answer to the approval, and the results of the steps that were tried."""

    approval: RequestResult | None = None
    steps: list[StepResult] = field(default_factory=list)


@dataclass(frozen=True)
class ReconcileRequest:
    """Close an order whose workflow is gone; `unopened` when even its acceptance is not in the books."""

    order_id: str
    why: str
    run_id: str | None = None
    unopened: OpenRequest | None = None


@dataclass(frozen=True)
class ShippingRequest:
    """The argument of `ShippingWorkflow`: shipment `n` of an order (1 for the first)."""

    order_id: str
    n: int
    order_workflow_id: str
    prepare_not_after: datetime
    dispatch_not_after: datetime
    run_id: str | None = None


@dataclass(frozen=True)
class AbortRequest:
    """Turn an order back; the first reason that reaches the books decides the outcome.

    `signal` names the request of a person (None: the system's own decision). `request_id` makes a
    repeated activity give the answer that the first one gave.
    """

    order_id: str
    reason: Reason
    by: str
    message: str = ""
    signal: str | None = None
    request_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class ApproveRequest:
    """`signal` names the request of a person; None is the simulated reviewer."""

    order_id: str
    reviewer: str
    signal: str | None = None
    request_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class AddressRequest:
    order_id: str
    new_address: Address
    updated_by: str
    request_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class RecordRequestEventRequest:
    """A person's request that only needs an entry in the books."""

    order_id: str
    signal: str
    accepted: bool
    detail: dict[str, str]
    request_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class FinishRequest:
    """The outcome the workflow arrives at; the books have the last word."""

    order_id: str
    outcome: State
    run_id: str | None = None


@dataclass(frozen=True)
class OrderResult:
    """What `OrderWorkflow` returns; a closed workflow must agree with the books."""

    order_id: str
    outcome: State
    reason: Reason | None
    completion_ms: int


DUPLICATE_ORDER = "DuplicateOrder"
INVALID_ORDER = "InvalidOrder"
"""Types of the errors with which an OrderWorkflow fails that never became an order."""
