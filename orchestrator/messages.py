"""Ids and messages of the workflows: arguments, results, signals, updates and activity payloads.

Plain dataclasses: Temporal's default JSON converter reads and writes them, so any Temporal tool can send a
signal as a JSON object with the same field names.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from db import domain
from db.currencies import CURRENCIES, DEFAULT_CURRENCY, money_text
from db.domain import Address, ExecutionMode, Item, NewOrder, Reason, ReviewMode, State, Step
from db.domain import RequestResult as RequestResult
from orchestrator.deadlines import SIMULATED_NEEDS, OrderDeadlines, TimeNeeds

MAX_LIMIT_SECONDS = 3_600.0
MAX_ADDRESS_VERSION = 2**31 - 1
"""PostgreSQL's maximum of the type int."""

MAX_REQUESTS = 200
"""Requests of one kind that an order handles. Each adds about six events to the workflow's history; Temporal
ends a workflow at 51,200."""

# Types of the ApplicationErrors that workflows, activities and their callers distinguish.
INVALID_ORDER = "InvalidOrder"
DUPLICATE_ORDER = "DuplicateOrder"
INVALID_REQUEST = "InvalidRequest"
VALUE_REJECTED = "ValueRejected"
TOO_MANY_REQUESTS = "TooManyRequests"

UNACCEPTABLE = (INVALID_REQUEST, VALUE_REJECTED)
"""Error types of an update that fails because of its content."""

NOT_AN_ORDER = (DUPLICATE_ORDER, INVALID_ORDER)
"""Error types of an OrderWorkflow that fails before it has inserted an order."""

ORDER_WORKFLOW_PREFIX = "order-"


def order_workflow_id(order_id: str) -> str:
    return ORDER_WORKFLOW_PREFIX + order_id


def order_id_of(workflow_id: str) -> str:
    """Return the order id in the workflow id of an OrderWorkflow."""
    return workflow_id.removeprefix(ORDER_WORKFLOW_PREFIX)


def reconcile_workflow_id(order_id: str) -> str:
    return f"reconcile-{order_id}"


def compensation_task_queue(order_task_queue: str) -> str:
    return f"{order_task_queue}-compensation"


def shipping_workflow_id(order_id: str, n: int) -> str:
    return f"shipping-{order_id}-{n}"


# --- Orders -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OrderRequest:
    """The argument of `OrderWorkflow`: one order as the customer placed it.

    `requested_at` is the scheduled send time of an open-loop load test, else the time of the request;
    `limit_seconds` is the time from acceptance to the outcome; `start_request_id` is derived from the
    idempotency key of the start; `database_id` is the API's order database;
    `time_needs` are the times that the API's gateways need (None: those of the simulated gateways);
    `payment_method` is the payment provider's id of the customer's card or account.
    """

    order_id: str
    initial_address: Address
    payment_id: str
    requested_at: datetime
    items: list[Item] = field(default_factory=lambda: list(domain.SAMPLE_ITEMS))
    review: ReviewMode = ReviewMode.AUTO
    execution: ExecutionMode = ExecutionMode.FAST
    auto_review_seconds: float = 2.0
    limit_seconds: float = 15.0
    run_id: str | None = None
    shipping_task_queue: str = "shipping-tq"
    start_request_id: str | None = None
    database_id: str | None = None
    currency: str = DEFAULT_CURRENCY
    payment_method: str | None = None
    time_needs: TimeNeeds | None = None

    @property
    def amount_cents(self) -> int:
        return sum(item.price_cents for item in self.items)

    @property
    def summary(self) -> str:
        """One line about the order for Temporal's UI."""
        run = "" if self.run_id is None else f", run {self.run_id}"
        return f"order {self.order_id}, {money_text(self.amount_cents, self.currency)}{run}"

    @property
    def fingerprint(self) -> str:
        """A digest of the customer's order: equal for a repeated request, different for another order.

        `requested_at` and `run_id` are not part of it.
        """
        content: dict[str, object] = {
            "address": self.initial_address.to_json(),
            "items": [asdict(item) for item in self.items],
            "payment_id": self.payment_id,
            "review": self.review,
            "execution": self.execution,
        }
        if self.currency != DEFAULT_CURRENCY:
            content["currency"] = self.currency
        if self.payment_method is not None:
            content["payment_method"] = self.payment_method
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def has_valid_limit(self) -> bool:
        return 0 < self.limit_seconds <= MAX_LIMIT_SECONDS

    def deadlines(self, accepted_at: datetime) -> OrderDeadlines:
        """Return the order's deadlines; with an invalid limit or invalid needs, those of a limit of 0."""
        needs = self.time_needs or SIMULATED_NEEDS
        if not self.has_valid_limit or not needs.is_valid:
            return OrderDeadlines(accepted_at, timedelta(0))
        return OrderDeadlines(accepted_at, timedelta(seconds=self.limit_seconds), needs)

    def new_order(self, workflow_run_id: str, accepted_at: datetime) -> NewOrder:
        """Return the order to insert, accepted by this workflow run."""
        return NewOrder(
            order_id=self.order_id,
            workflow_run_id=workflow_run_id,
            run_id=self.run_id,
            start_request_id=self.start_request_id,
            fingerprint=self.fingerprint,
            address=self.initial_address,
            items=self.items,
            amount_cents=self.amount_cents,
            payment_id=self.payment_id,
            review=self.review,
            requested_at=self.requested_at,
            accepted_at=accepted_at,
            deadline_at=accepted_at + timedelta(seconds=self.limit_seconds),
            review_until=self.deadlines(accepted_at).not_after(Step.REVIEW),
            database_id=self.database_id,
            currency=self.currency,
            execution=self.execution,
            payment_method=self.payment_method,
        )

    def validation_errors(self) -> list[str]:
        """Return one message for each invalid field."""
        errors = self.initial_address.validation_errors()
        if not re.fullmatch(domain.ORDER_ID_PATTERN, self.order_id):
            errors.append("order_id must be 1 to 64 letters, digits, '-' or '_'")
        errors += domain.text_errors(payment_id=self.payment_id, shipping_task_queue=self.shipping_task_queue)
        if self.run_id is not None:
            errors += domain.text_errors(run_id=self.run_id)
        if self.payment_method is not None:
            errors += domain.text_errors(payment_method=self.payment_method)
        if self.currency not in CURRENCIES:
            errors.append(f"currency must be a code of ISO 4217, for example USD, not {self.currency[:10]!r}")
        if self.time_needs is not None and not self.time_needs.is_valid:
            errors.append("time_needs must have every step, and times from 0 to 600 s")
        if self.requested_at.tzinfo is None:
            errors.append("requested_at has no time zone")
        if not self.has_valid_limit:
            errors.append(f"limit_seconds must be above 0 and at most {MAX_LIMIT_SECONDS:.0f}")
        if not 0 <= self.auto_review_seconds <= MAX_LIMIT_SECONDS:
            errors.append(f"auto_review_seconds must be 0 to {MAX_LIMIT_SECONDS:.0f}")
        if not 1 <= len(self.items) <= domain.MAX_ORDER_LINES:
            errors.append(f"an order must have 1 to {domain.MAX_ORDER_LINES} lines, not {len(self.items)}")
        for number, item in enumerate(self.items, start=1):
            errors += [f"line {number}: {error}" for error in domain.text_errors(sku=item.sku)]
            for name, value, minimum, maximum in (
                ("quantity", item.quantity, 1, domain.MAX_QUANTITY),
                ("unit_price_cents", item.unit_price_cents, 0, domain.MAX_UNIT_PRICE_CENTS),
            ):
                # The converter accepts any JSON number.
                if type(value) is not int or not minimum <= value <= maximum:
                    errors.append(f"line {number}: {name} must be a whole number from {minimum} to {maximum}")
        return errors


@dataclass(frozen=True)
class OrderResult:
    """The result of `OrderWorkflow`: the outcome that the order database holds."""

    order_id: str
    outcome: State
    reason: Reason | None
    completion_ms: int


@dataclass(frozen=True)
class OrderStatus:
    """The result of the `status` query."""

    order_id: str
    current_step: Step | None
    completed_steps: list[Step]
    abort_reason: Reason | None
    outcome: State | None
    deadline_at: datetime


# --- Signals and updates --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PersonRequest:
    """A request of a customer or a reviewer about a running order."""

    def validation_errors(self) -> list[str]:
        """Return one message for each invalid field."""
        texts = {name: value for name, value in vars(self).items() if isinstance(value, str)}
        return domain.text_errors(**texts)


@dataclass(frozen=True)
class CancelOrder(PersonRequest):
    reason: str
    cancelled_by: str


@dataclass(frozen=True)
class UpdateAddress(PersonRequest):
    """Change the address. `address_version` is the version of the address that the change replaces; if the
    order has another version, it rejects the change. None replaces any version."""

    new_address: Address
    updated_by: str
    address_version: int | None = None

    def validation_errors(self) -> list[str]:
        errors = self.new_address.validation_errors() + super().validation_errors()
        if self.address_version is not None and not 1 <= self.address_version <= MAX_ADDRESS_VERSION:
            errors.append(f"address_version must be 1 to {MAX_ADDRESS_VERSION}")
        return errors


@dataclass(frozen=True)
class ApproveOrder(PersonRequest):
    reviewer: str


@dataclass(frozen=True)
class RejectOrder(PersonRequest):
    reviewer: str
    reason: str


@dataclass(frozen=True)
class DispatchFailed:
    """Signal from `ShippingWorkflow`: the carrier or the warehouse declined, or the time was over."""

    reason: str
    attempts: int


# --- Activities -----------------------------------------------------------------------------------------


class Activity(StrEnum):
    """Activity names, so that workflows need not import the activities."""

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


STEP_ACTIVITIES: dict[Step, Activity] = {
    Step.RECEIVE: Activity.RECEIVE,
    Step.VALIDATE: Activity.VALIDATE,
    Step.CHARGE: Activity.CHARGE,
    Step.PREPARE: Activity.PREPARE,
    Step.DISPATCH: Activity.DISPATCH,
    Step.RECALL: Activity.RECALL,
    Step.REFUND: Activity.REFUND,
}
"""The activity of each step that calls a gateway."""


class StepStatus(StrEnum):
    """How a step ended. UNFINISHED: its time budget was used up, and the step must be resumed."""

    DONE = "done"
    DECLINED = "declined"
    ABORTED = "aborted"
    OUT_OF_TIME = "out_of_time"
    UNFINISHED = "unfinished"


@dataclass(frozen=True)
class StepRequest:
    """Run one step of one order.

    No attempt starts after `not_after` (None: no limit). After `time_budget_seconds` the activity returns
    UNFINISHED (None: no limit). `single_attempt`: the activity makes one attempt, and fails if that fails, so
    that Temporal retries it. `attempt_seconds` is the attempt timeout (None: that of the simulated gateways).
    """

    order_id: str
    step: Step
    not_after: datetime | None = None
    time_budget_seconds: float | None = None
    run_id: str | None = None
    single_attempt: bool = False
    attempt_seconds: float | None = None


@dataclass(frozen=True)
class StepResult:
    """`message` is the error of the last failed attempt of this execution. `address_version` is set when the
    carrier declined this version of the address."""

    status: StepStatus
    attempts: int = 0
    message: str = ""
    address_version: int | None = None


@dataclass(frozen=True)
class AbortRequest:
    """Abort an order. The first reason that is stored decides the outcome.

    `signal` names the request that a person sent (None: the system decided). `request_id` is the idempotency
    key: a repeated activity returns the result of its first execution. With an `address_version`, an order
    whose address has another version is not aborted.
    """

    order_id: str
    reason: Reason
    requested_by: str
    message: str = ""
    signal: str | None = None
    request_id: str | None = None
    run_id: str | None = None
    address_version: int | None = None


@dataclass(frozen=True)
class ApproveRequest:
    """Approve an order in review. `signal` is None for the simulated reviewer."""

    order_id: str
    reviewer: str
    signal: str | None = None
    request_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class ChangeAddressRequest:
    order_id: str
    new_address: Address
    updated_by: str
    request_id: str | None = None
    address_version: int | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class RequestEvent:
    """Record a decision that the workflow made without the order database."""

    order_id: str
    signal: str
    accepted: bool
    detail: dict[str, str]
    request_id: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class StepBatchRequest:
    """Run several parts of an order in one activity: open or approve it, then the steps in order.

    The batch stops at the first part that does not succeed. `time_budget_seconds` is for all parts together.
    """

    time_budget_seconds: float
    open: NewOrder | None = None
    approve: ApproveRequest | None = None
    steps: list[StepRequest] = field(default_factory=list)


@dataclass(frozen=True)
class StepBatchResult:
    """The result of the approval, if there was one, and of the steps that were run."""

    approval: RequestResult | None = None
    steps: list[StepResult] = field(default_factory=list)


@dataclass(frozen=True)
class FinishRequest:
    """Store the outcome, unless the order has one."""

    order_id: str
    outcome: State
    run_id: str | None = None


# --- Other workflows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShippingRequest:
    """The argument of `ShippingWorkflow`: shipment `n` of an order, counted from 1. `attempt_seconds` has the
    attempt timeout of each step; empty: those of the simulated gateways."""

    order_id: str
    n: int
    order_workflow_id: str
    prepare_not_after: datetime
    dispatch_not_after: datetime
    run_id: str | None = None
    execution: ExecutionMode = ExecutionMode.FAST
    attempt_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ReconcileRequest:
    """The argument of `ReconcileWorkflow`: finish an order whose workflow is closed, and say why it closed.

    `new_order` is set when the order was never inserted.
    """

    order_id: str
    cause: str
    run_id: str | None = None
    new_order: NewOrder | None = None
