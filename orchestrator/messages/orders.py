"""Arguments and results of the workflows."""

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256

from db import domain
from db.currencies import CURRENCIES, DEFAULT_CURRENCY, money_text
from db.domain import Address, ExecutionMode, Item, NewOrder, Reason, ReviewMode, State, Step
from orchestrator.deadlines import SIMULATED_NEEDS, OrderDeadlines, TimeNeeds

MAX_LIMIT_SECONDS = 3_600.0

# Types of ApplicationErrors.
INVALID_ORDER = "InvalidOrder"
DUPLICATE_ORDER = "DuplicateOrder"

NOT_AN_ORDER = (DUPLICATE_ORDER, INVALID_ORDER)
"""Error types of an OrderWorkflow that fails before it has inserted an order."""


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
        names = ("payment_id", "shipping_task_queue", "run_id", "payment_method")
        texts = {name: value for name in names if (value := getattr(self, name)) is not None}
        errors += domain.text_errors(**texts).values()
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
            errors += [f"line {number}: {error}" for error in domain.text_errors(sku=item.sku).values()]
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
