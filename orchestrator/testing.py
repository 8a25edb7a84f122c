"""In-memory activities, to test the workflows without PostgreSQL and without gateways.

    activities = InMemoryActivities()
    activities.script("order-1", Activity.CHARGE, [StepStatus.DECLINED])
    async with await WorkflowEnvironment.start_time_skipping() as environment:
        client = environment.client
        async with (
            order_worker(client, "order-tq", activities),
            compensation_worker(client, "order-tq", activities),
            shipping_worker(client, "shipping-tq", activities),
        ):
            result = await client.execute_workflow(
                OrderWorkflow.run, order, id=order_workflow_id("order-1"), task_queue="order-tq"
            )
    assert result.reason is Reason.PAYMENT_DECLINED
    assert activities.orders["order-1"].violations() == []

The activities follow the state machine of `db.transitions` and accept or reject requests as the order
database does. Do not use them to test SQL, attempts, fault profiles or throughput: those exist only in the
real activities.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from temporalio import activity
from temporalio.exceptions import ApplicationError

from db.domain import ADDRESS_STEPS, COMPENSATIONS, Address, NewOrder, Reason, RequestResult, State, Step
from db.transitions import STATE_MACHINE, Transition
from orchestrator.activities.step_batch import StepBatchActivity
from orchestrator.messages.activities import (
    STEP_ACTIVITIES,
    AbortRequest,
    Activity,
    ApproveRequest,
    ChangeAddressRequest,
    FinishRequest,
    RequestEvent,
    StepRequest,
    StepResult,
    StepStatus,
)
from orchestrator.messages.orders import DUPLICATE_ORDER, OrderResult
from orchestrator.worker.factory import ActivityMethods

COMPLETION_MS = 1_234
"""`completion_ms` of every order."""


@dataclass(frozen=True)
class ResponseLost:
    """The activity does its work and stores it, then fails."""


@dataclass(frozen=True)
class DoneButReturns:
    """The gateway does its work, but the step returns `status`. `is_stored`: the database stores the step as
    done."""

    status: StepStatus
    is_stored: bool


ScriptedOutcome = StepStatus | Exception | ResponseLost | DoneButReturns | None
"""How one execution of an activity ends: a raised exception, one of the classes above, or, for a step, a
returned status without any work. None: it succeeds."""


@dataclass
class InMemoryOrder:
    """One order, as the order database and the gateways know it."""

    order_id: str
    workflow_run_id: str
    address: Address
    state: State = State.RECEIVED
    current_step: Step | None = Step.RECEIVE
    states: list[State] = field(default_factory=lambda: [State.RECEIVED])
    abort: AbortRequest | None = None
    reviewer: str | None = None
    address_version: int = 1
    requests: list[tuple[str, bool]] = field(default_factory=list)
    """Requests of people: (signal, accepted)."""

    applied_request_ids: set[str] = field(default_factory=set)
    gateway_calls: set[Step] = field(default_factory=set)
    """Steps that took effect at a gateway. A repeated call changes nothing there."""

    attempted_steps: set[Step] = field(default_factory=set)
    label: Address | None = None
    """The address on the parcel's label."""

    @property
    def charges(self) -> int:
        return int(Step.CHARGE in self.gateway_calls)

    @property
    def refunds(self) -> int:
        return int({Step.CHARGE, Step.REFUND} <= self.gateway_calls)

    @property
    def abort_reason(self) -> Reason | None:
        return self.abort.reason if self.abort is not None else None

    @property
    def compensations(self) -> list[Step]:
        """The compensations of the steps that were attempted, if the order is aborted."""
        if self.abort is None:
            return []
        reverted = STATE_MACHINE.compensations()
        return [step for step, steps in reverted.items() if not self.attempted_steps.isdisjoint(steps)]

    def has_replaced(self, address_version: int | None) -> bool:
        """Return whether the order still accepts an address, and has another than this version."""
        can_change = self.abort is None and STATE_MACHINE.no_abort_from.is_past(self.state)
        return can_change and address_version not in (None, self.address_version)

    def advance(self, transition: Transition) -> None:
        for state in transition.path:
            self.move_to(state)
        self.current_step = transition.next_step

    def move_to(self, state: State) -> None:
        self.state = state
        self.states.append(state)

    def violations(self) -> list[str]:
        """Return the invariants that this order breaks. Call it after the outcome."""
        if not self.state.is_terminal:
            return [f"no outcome: {self.state}"]
        is_completed = self.state is State.COMPLETED
        is_dispatched, is_recalled = Step.DISPATCH in self.gateway_calls, Step.RECALL in self.gateway_calls
        is_handled = is_dispatched or Step.PREPARE in self.gateway_calls
        checks = {
            "wrong net charge": self.charges - self.refunds != (1 if is_completed else 0),
            "completed without a valid dispatch": is_completed and (not is_dispatched or is_recalled),
            "label with another address": is_completed and self.label != self.address,
            "packed or dispatched but not recalled": not is_completed and is_handled and not is_recalled,
            "outcome does not match the reason": self.state
            is not (self.abort_reason.outcome if self.abort_reason else State.COMPLETED),
            "illegal state change": not set(pairwise(self.states)) <= set(STATE_MACHINE.event_changes()),
        }
        return [f"{violation}: {self}" for violation, is_broken in checks.items() if is_broken]


class InMemoryActivities:
    """The activities of both workers, for any number of orders."""

    def __init__(self) -> None:
        self.orders: dict[str, InMemoryOrder] = {}
        self.calls: defaultdict[str, list[tuple[Activity, bool]]] = defaultdict(list)
        """By order: (activity, whether it ran as a local activity), in the order of their start."""

        self._scripts: dict[tuple[str, Activity], list[ScriptedOutcome]] = {}
        self._steps = {step: self._step_activity(name) for step, name in STEP_ACTIVITIES.items()}

    def script(self, order_id: str, name: Activity, outcomes: Sequence[ScriptedOutcome]) -> None:
        """Set the outcomes of the next executions of an activity. After the last one it succeeds."""
        self._scripts[order_id, name] = list(outcomes)

    @property
    def for_order_worker(self) -> ActivityMethods:
        batch = StepBatchActivity(self._steps, self.open, self.approve)
        return [
            batch.run_batch,
            self._steps[Step.RECEIVE],
            self._steps[Step.VALIDATE],
            self._steps[Step.CHARGE],
            self.open,
            self.approve,
            self.change_address,
            self.abort,
            self.record_request_event,
            self.finish,
        ]

    @property
    def for_compensation_worker(self) -> ActivityMethods:
        return [self._steps[step] for step in COMPENSATIONS]

    @property
    def for_shipping_worker(self) -> ActivityMethods:
        batch = StepBatchActivity(self._steps, self.open, self.approve)
        return [batch.run_batch, self._steps[Step.PREPARE], self._steps[Step.DISPATCH]]

    async def started(self, name: Activity, order_id: str) -> bool:  # noqa: ARG002
        """Called when an activity starts; override it to hold the activity.

        If it returns False, a step returns UNFINISHED and another activity fails.
        """
        return True

    # --- Steps --------------------------------------------------------------------------------------

    def _step_activity(self, name: Activity) -> Callable[[StepRequest], Awaitable[StepResult]]:
        @activity.defn(name=name)
        async def run(request: StepRequest) -> StepResult:
            return await self._run_step(name, request)

        return run

    async def _run_step(self, name: Activity, request: StepRequest) -> StepResult:
        order = self.orders[request.order_id]
        version = order.address_version if request.step in ADDRESS_STEPS else None
        outcome = await self._start(name, request.order_id)
        if order.abort is None:
            order.attempted_steps.add(request.step)
        attempts = [called for called, _ in self.calls[request.order_id]].count(name)
        if isinstance(outcome, StepStatus):
            is_aborted = order.abort is not None and request.step not in COMPENSATIONS
            return StepResult(
                StepStatus.ABORTED if is_aborted else outcome, attempts, f"scripted {outcome}", version
            )
        is_stored = outcome.is_stored if isinstance(outcome, DoneButReturns) else True
        status = self._do_step(order, request.step, is_stored=is_stored)
        if isinstance(outcome, ResponseLost):
            raise RuntimeError("scripted: the response was lost")
        return StepResult(outcome.status if isinstance(outcome, DoneButReturns) else status, attempts)

    def _do_step(self, order: InMemoryOrder, step: Step, *, is_stored: bool) -> StepStatus:
        transition = STATE_MACHINE.of(step)
        if transition is None:
            if order.abort is not None and not order.state.is_terminal:
                order.gateway_calls.add(step)
            return StepStatus.DONE
        if order.abort is not None:
            return StepStatus.ABORTED
        if order.current_step is step:
            order.gateway_calls.add(step)
            if step is Step.DISPATCH:
                order.label = order.address
            if is_stored:
                order.advance(transition)
        return StepStatus.DONE

    # --- Activities that only write to the order database -------------------------------------------

    @activity.defn(name=Activity.OPEN)
    async def open(self, order: NewOrder) -> bool:
        async with self._database_activity(Activity.OPEN, order.order_id):
            new = InMemoryOrder(order.order_id, order.workflow_run_id, order.address)
            stored = self.orders.setdefault(order.order_id, new)
            if stored.workflow_run_id != order.workflow_run_id:
                raise ApplicationError("duplicate order", type=DUPLICATE_ORDER, non_retryable=True)
        return True

    @activity.defn(name=Activity.ABORT)
    async def abort(self, request: AbortRequest) -> RequestResult:
        async with self._database_activity(Activity.ABORT, request.order_id):
            order = self.orders[request.order_id]
            limit = STATE_MACHINE.abort_limit(request.reason)
            is_outdated = order.has_replaced(request.address_version)
            accepted = order.abort is None and limit.is_past(order.state) and not is_outdated
            if accepted:
                order.abort = request
            return _decide(order, request.signal, request.request_id, accepted, is_outdated)

    @activity.defn(name=Activity.APPROVE)
    async def approve(self, request: ApproveRequest) -> RequestResult:
        async with self._database_activity(Activity.APPROVE, request.order_id):
            order = self.orders[request.order_id]
            review = STATE_MACHINE.of(Step.REVIEW)
            assert review is not None
            accepted = order.abort is None and order.state is review.due_state
            if accepted:
                order.advance(review)
                order.reviewer = request.reviewer
            return _decide(order, request.signal, request.request_id, accepted)

    @activity.defn(name=Activity.CHANGE_ADDRESS)
    async def change_address(self, request: ChangeAddressRequest) -> RequestResult:
        async with self._database_activity(Activity.CHANGE_ADDRESS, request.order_id):
            order = self.orders[request.order_id]
            is_in_time = order.abort is None and STATE_MACHINE.no_abort_from.is_past(order.state)
            is_outdated = order.has_replaced(request.address_version)
            accepted = is_in_time and request.request_id not in order.applied_request_ids and not is_outdated
            if accepted:
                order.address_version += int(request.new_address != order.address)
                order.address = request.new_address
            return _decide(order, "update_address", request.request_id, accepted, is_outdated)

    @activity.defn(name=Activity.RECORD_REQUEST_EVENT)
    async def record_request_event(self, request: RequestEvent) -> bool:
        async with self._database_activity(Activity.RECORD_REQUEST_EVENT, request.order_id):
            self.orders[request.order_id].requests.append((request.signal, request.accepted))
        return True

    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        async with self._database_activity(Activity.FINISH, request.order_id):
            order = self.orders[request.order_id]
            if not order.state.is_terminal:
                if request.outcome is State.COMPLETED:
                    is_ready = order.state is State.DISPATCHED
                else:
                    is_ready = order.abort is not None and order.charges == order.refunds
                if not is_ready:
                    raise RuntimeError(f"{order.order_id} cannot be {request.outcome}: it is {order.state}")
                order.move_to(request.outcome)
            return OrderResult(order.order_id, order.state, order.abort_reason, COMPLETION_MS)

    @asynccontextmanager
    async def _database_activity(self, name: Activity, order_id: str) -> AsyncIterator[None]:
        outcome = await self._start(name, order_id)
        if outcome is StepStatus.UNFINISHED:
            raise RuntimeError("held: continue as a regular activity")
        yield
        if isinstance(outcome, ResponseLost):
            raise RuntimeError("scripted: the response was lost")

    async def _start(self, name: Activity, order_id: str) -> ScriptedOutcome:
        """Record the call and return its scripted outcome. Raises a scripted exception."""
        self.calls[order_id].append((name, activity.info().is_local))
        if not await self.started(name, order_id):
            return StepStatus.UNFINISHED
        script = self._scripts.get((order_id, name))
        outcome = script.pop(0) if script else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _decide(
    order: InMemoryOrder,
    signal: str | None,
    request_id: str | None,
    accepted: bool,
    is_outdated: bool = False,
) -> RequestResult:
    assert request_id is not None, "without an idempotency key a repeated request is not recognized"
    if accepted:
        order.applied_request_ids.add(request_id)
    elif request_id in order.applied_request_ids:
        return RequestResult(True, "accepted", order.state, order.abort_reason, order.compensations)
    if signal is not None:
        order.requests.append((signal, accepted))
    message = "accepted" if accepted else f"too late: the order is {order.state}"
    return RequestResult(
        accepted,
        message,
        order.state,
        order.abort_reason,
        order.compensations,
        is_outdated=is_outdated and not accepted,
    )
