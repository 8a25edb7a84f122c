"""The words of the business: orders, states, steps, outcomes and messages.

Every other module speaks these words. The module imports no I/O and nothing of the project, so
workflows, the API and the books can all share it.

Messages are plain dataclasses, because Temporal's default JSON converter reads and writes them:
any Temporal tool can send a signal as a JSON object with the same field names.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

ORDER_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
MAX_ORDER_LINES = 100
MAX_QUANTITY = 1_000_000
MAX_UNIT_PRICE_CENTS = 100_000_000
MAX_TEXT_LENGTH = 200
MAX_LIMIT_SECONDS = 3_600.0


class Step(StrEnum):
    """What is done for an order, in the order it is done; recall and refund undo."""

    RECEIVE = "receive"
    VALIDATE = "validate"
    REVIEW = "review"
    CHARGE = "charge"
    PREPARE = "prepare"
    DISPATCH = "dispatch"
    RECALL = "recall"
    REFUND = "refund"
    FINISH = "finish"


COMPENSATIONS = (Step.RECALL, Step.REFUND)
OUTSIDE_STEPS = (
    Step.RECEIVE,
    Step.VALIDATE,
    Step.CHARGE,
    Step.PREPARE,
    Step.DISPATCH,
    Step.RECALL,
    Step.REFUND,
)
"""The steps that call the world outside, and so can fail, hang or lose an answer."""


class State(StrEnum):
    """Where an order stands. The order of the members is the order of the path."""

    RECEIVED = "received"
    VALIDATED = "validated"
    IN_REVIEW = "in_review"
    APPROVED = "approved"
    CHARGED = "charged"
    PREPARED = "prepared"
    DISPATCHED = "dispatched"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_STATES

    def is_past(self, other: "State") -> bool:
        """Whether this state lies further along the path than `other`."""
        path = list(State)
        return path.index(self) > path.index(other)

    def may_become(self, later: "State") -> bool:
        """Whether an order may go from this state directly to `later`."""
        return later in _NEXT_STATES[self]


TERMINAL_STATES = (State.COMPLETED, State.CANCELLED, State.FAILED)

_ENDED_EARLY = (State.CANCELLED, State.FAILED)
_NEXT_STATES: dict[State, tuple[State, ...]] = {
    State.RECEIVED: (State.VALIDATED, *_ENDED_EARLY),
    State.VALIDATED: (State.IN_REVIEW, *_ENDED_EARLY),
    State.IN_REVIEW: (State.APPROVED, *_ENDED_EARLY),
    State.APPROVED: (State.CHARGED, *_ENDED_EARLY),
    State.CHARGED: (State.PREPARED, *_ENDED_EARLY),
    State.PREPARED: (State.DISPATCHED, *_ENDED_EARLY),
    # Once the carrier has the parcel, the order can only complete.
    State.DISPATCHED: (State.COMPLETED,),
    State.COMPLETED: (),
    State.CANCELLED: (),
    State.FAILED: (),
}


class Reason(StrEnum):
    """Why an order ended other than by completing."""

    CUSTOMER_CANCELLED = "customer_cancelled"
    REVIEW_REJECTED = "review_rejected"
    REVIEW_EXPIRED = "review_expired"
    PAYMENT_DECLINED = "payment_declined"
    VALIDATION_FAILED = "validation_failed"
    DEADLINE = "deadline"
    SHIPPING_FAILED = "shipping_failed"
    TERMINATED = "terminated"
    INTERNAL_ERROR = "internal_error"

    @property
    def outcome(self) -> State:
        """The outcome of an order that was aborted for this reason."""
        return State.CANCELLED if self in _CANCELLING_REASONS else State.FAILED


_CANCELLING_REASONS = (Reason.CUSTOMER_CANCELLED, Reason.REVIEW_REJECTED, Reason.REVIEW_EXPIRED)


class AttemptOutcome(StrEnum):
    """How one call to the outside ended, as far as the caller can know."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    DECLINED = "declined"
    LOST = "lost"


class ReviewMode(StrEnum):
    AUTO = "auto"
    MANUAL = "manual"


@dataclass(frozen=True)
class Address:
    street: str
    city: str
    state: str
    zip: str

    def problems(self) -> list[str]:
        """What is wrong with the address, in plain words; empty when it is complete."""
        return _text_problems(street=self.street, city=self.city, state=self.state, zip=self.zip)


@dataclass(frozen=True)
class Item:
    sku: str
    quantity: int
    unit_price_cents: int

    @property
    def price_cents(self) -> int:
        return self.quantity * self.unit_price_cents


SAMPLE_ITEMS = (Item(sku="SAMPLE-1", quantity=1, unit_price_cents=4_200),)
"""What an order without items contains."""


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
        found += _text_problems(payment_id=self.payment_id, shipping_task_queue=self.shipping_task_queue)
        if self.run_id is not None:
            found += _text_problems(run_id=self.run_id)
        if self.requested_at.tzinfo is None:
            found.append("requested_at has no time zone")
        if not self.has_usable_limit:
            found.append(f"limit_seconds must be above 0 and at most {MAX_LIMIT_SECONDS:.0f}")
        if not 0 <= self.auto_review_seconds <= MAX_LIMIT_SECONDS:
            found.append(f"auto_review_seconds must be 0 to {MAX_LIMIT_SECONDS:.0f}")
        if not 1 <= len(self.items) <= MAX_ORDER_LINES:
            found.append(f"an order has 1 to {MAX_ORDER_LINES} lines, this one has {len(self.items)}")
        for number, item in enumerate(self.items, start=1):
            found += [f"line {number}: {problem}" for problem in _text_problems(sku=item.sku)]
            if not 1 <= item.quantity <= MAX_QUANTITY:
                found.append(f"line {number}: quantity must be 1 to {MAX_QUANTITY}")
            if not 0 <= item.unit_price_cents <= MAX_UNIT_PRICE_CENTS:
                found.append(f"line {number}: unit_price_cents must be 0 to {MAX_UNIT_PRICE_CENTS}")
        return found


def text_problem(name: str, value: str) -> str | None:
    """Why a text field cannot be stored, or None when it can."""
    if not value.strip():
        return f"{name} is empty"
    if len(value) > MAX_TEXT_LENGTH:
        return f"{name} is longer than {MAX_TEXT_LENGTH} characters"
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        return f"{name} contains control characters"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        return f"{name} is not valid Unicode text"
    return None


def _text_problems(**fields: str) -> list[str]:
    found = (text_problem(name, value) for name, value in fields.items())
    return [problem for problem in found if problem is not None]


# --- Signals and updates of OrderWorkflow -------------------------------------------------------


@dataclass(frozen=True)
class CancelOrder:
    reason: str
    cancelled_by: str

    def problems(self) -> list[str]:
        return _text_problems(reason=self.reason, cancelled_by=self.cancelled_by)


@dataclass(frozen=True)
class UpdateAddress:
    new_address: Address
    updated_by: str

    def problems(self) -> list[str]:
        return self.new_address.problems() + _text_problems(updated_by=self.updated_by)


@dataclass(frozen=True)
class ApproveOrder:
    reviewer: str

    def problems(self) -> list[str]:
        return _text_problems(reviewer=self.reviewer)


@dataclass(frozen=True)
class RejectOrder:
    reviewer: str
    reason: str

    def problems(self) -> list[str]:
        return _text_problems(reviewer=self.reviewer, reason=self.reason)


@dataclass(frozen=True)
class DispatchFailed:
    """The shipping child could not hand the parcel to the carrier."""

    reason: str
    attempts: int


@dataclass(frozen=True)
class Answer:
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


# --- Between workflows and activities -----------------------------------------------------------


class Activity(StrEnum):
    """The names under which workflows know the activities, so that they need not import them."""

    ADVANCE = "AdvanceOrder"
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
    NOTE_SIGNAL = "NoteSignal"
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

    `give_up_at` is the moment after which no attempt may start (None: never give up);
    `patience_seconds` is how long the activity itself may go on trying before it hands back UNFINISHED.
    """

    order_id: str
    step: Step
    give_up_at: datetime | None = None
    patience_seconds: float | None = None
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
class AdvanceRequest:
    """What a worker is to do for an order in one go: one after the other, as long as each succeeds.

    `patience_seconds` is for all of it together.
    """

    order_id: str
    patience_seconds: float
    open: "OpenRequest | None" = None
    approve: "ApproveRequest | None" = None
    steps: list[StepRequest] = field(default_factory=list)


@dataclass(frozen=True)
class AdvanceResult:
    """How far it came: the answer to the approval, and the results of the steps that were tried."""

    approval: Answer | None = None
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
    give_up_preparing_at: datetime
    give_up_dispatching_at: datetime
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
class NoteRequest:
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


ORDER_WORKFLOW_PREFIX = "order-"


def order_workflow_id(order_id: str) -> str:
    return ORDER_WORKFLOW_PREFIX + order_id


def reconcile_workflow_id(order_id: str) -> str:
    return f"reconcile-{order_id}"


def shipping_workflow_id(order_id: str, n: int) -> str:
    return f"shipping-{order_id}-{n}"
