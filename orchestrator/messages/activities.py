"""Names, arguments and results of the activities."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from db.domain import Address, NewOrder, Reason, RequestResult, State, Step


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
