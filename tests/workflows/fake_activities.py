"""The activities, without a database and without an outside: they keep the rules of the books in memory.

A test scripts, order by order and activity by activity, how each call ends, and may hold an activity until
it lets go, so that an order stands still in a known state. What was charged, packed and dispatched is kept
too, as a provider would, so that every test can check that money and parcels are where they belong.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from db.domain import Address, Reason, State, Step
from db.orders import DUE_STATE, STATE_AFTER
from orchestrator.activities.step_batch import StepBatchActivity
from orchestrator.messages import (
    DUPLICATE_ORDER,
    AbortRequest,
    Activity,
    ApproveRequest,
    ChangeAddressRequest,
    FinishRequest,
    OpenRequest,
    OrderResult,
    RequestEvent,
    RequestResult,
    StepRequest,
    StepResult,
    StepStatus,
)

HEARTBEAT_SECONDS = 0.5
COMPLETION_MS = 1234

_STEP_OF = {
    Activity.RECEIVE: Step.RECEIVE,
    Activity.VALIDATE: Step.VALIDATE,
    Activity.CHARGE: Step.CHARGE,
    Activity.PREPARE: Step.PREPARE,
    Activity.DISPATCH: Step.DISPATCH,
    Activity.RECALL: Step.RECALL,
    Activity.REFUND: Step.REFUND,
}
STEP_ACTIVITIES = tuple(_STEP_OF)
FORWARD_ACTIVITIES = STEP_ACTIVITIES[:5]


@dataclass(frozen=True)
class LostAnswer:
    """The activity does all of its work, in the books too, and then fails."""


@dataclass(frozen=True)
class OnlyOutside:
    """The outside does its work, but the books never hear of it; the workflow hears `status`."""

    status: StepStatus


@dataclass(frozen=True)
class OnlyDatabase:
    """Everything is done, but the workflow hears `status`: its worker died before it could tell."""

    status: StepStatus


Script = Sequence[StepStatus | Exception | LostAnswer | OnlyOutside | OnlyDatabase | None]
"""How the calls of one activity end, in turn; None and everything after the end of the script is as usual."""


@dataclass
class Gate:
    """Where a held activity waits."""

    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class FakeOrder:
    """One order in the books and at the outside."""

    order_id: str
    workflow_run_id: str
    address: Address
    amount_cents: int
    state: State = State.RECEIVED
    abort_reason: Reason | None = None
    abort: AbortRequest | None = None
    reviewer: str | None = None
    address_version: int = 1
    applied_request_ids: set[str] = field(default_factory=set)
    states: list[State] = field(default_factory=lambda: [State.RECEIVED])
    requests: list[tuple[str, bool]] = field(default_factory=list)
    """Requests of people, as the books note them: (signal, accepted)."""

    charges: int = 0
    refunds: int = 0
    is_voided: bool = False
    is_packed: bool = False
    is_unpacked: bool = False
    is_dispatched: bool = False
    is_called_off: bool = False
    label: Address | None = None

    def move_to(self, state: State) -> None:
        assert self.state.may_become(state), f"{self.order_id} may not go from {self.state} to {state}"
        self.state = state
        self.states.append(state)

    def problems(self) -> list[str]:
        """What is wrong with a finished order: the invariants that concern one order alone."""
        found = []
        if not self.state.is_terminal:
            return [f"no outcome: {self.state}"]
        if self.charges > 1 or self.refunds > 1:
            found.append(f"{self.charges} charges and {self.refunds} refunds")
        if self.state is State.COMPLETED:
            if (self.charges, self.refunds) != (1, 0):
                found.append(f"completed with {self.charges} charges and {self.refunds} refunds")
            if not self.is_dispatched or self.is_called_off or self.is_unpacked:
                found.append("completed without a parcel under way")
            if self.label != self.address:
                found.append(f"labelled {self.label} instead of {self.address}")
        else:
            if self.charges != self.refunds:
                found.append("ended early with money still charged")
            if self.is_dispatched and not self.is_called_off:
                found.append("ended early with a parcel under way")
            if self.is_packed and not self.is_unpacked:
                found.append("ended early with a package on the table")
            if self.abort_reason is None or self.abort_reason.outcome is not self.state:
                found.append(f"{self.state} because of {self.abort_reason}")
        if any(
            not earlier.may_become(later)
            for earlier, later in zip(self.states, self.states[1:], strict=False)
        ):
            found.append(f"an illegal path: {self.states}")
        return found


class FakeActivities:
    """All activities of both workers, for any number of orders."""

    def __init__(self) -> None:
        self.orders: dict[str, FakeOrder] = {}
        self.calls: defaultdict[str, list[tuple[Activity, bool]]] = defaultdict(list)
        """By order: (activity, whether it ran as a local activity), in the order of their begin."""
        self._scripts: dict[tuple[str, Activity], list[Any]] = {}
        self._gates: dict[tuple[str, Activity], Gate] = {}
        self._changed = asyncio.Condition()

    # --- What tests use -----------------------------------------------------------------------------

    def script(self, order_id: str, name: Activity, steps: Script) -> None:
        self._scripts[order_id, name] = list(steps)

    def hold(self, order_id: str, name: Activity) -> Gate:
        """Has the activity wait, as a regular one, until the gate is opened.

        A held forward step also comes back by itself once the order is turned back, as the real one does.
        """
        return self._gates.setdefault((order_id, name), Gate())

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Waits until something that activities change has come about."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(condition)

    def count(self, order_id: str) -> Counter[Activity]:
        return Counter(name for name, _ in self.calls[order_id])

    @property
    def for_orders(self) -> list[Callable[..., Any]]:
        """The activities of an order worker."""
        together = StepBatchActivity(
            {
                Step.RECEIVE: self.receive,
                Step.VALIDATE: self.validate,
                Step.CHARGE: self.charge,
                Step.REFUND: self.refund,
                Step.RECALL: self.recall,
            },
            open_order=self.open,
            approve=self.approve,
        )
        return [
            together.run_batch,
            self.open,
            self.receive,
            self.validate,
            self.charge,
            self.recall,
            self.refund,
            self.approve,
            self.change_address,
            self.abort,
            self.note_signal,
            self.finish,
        ]

    @property
    def for_shipping(self) -> list[Callable[..., Any]]:
        together = StepBatchActivity({Step.PREPARE: self.prepare, Step.DISPATCH: self.dispatch})
        return [together.run_batch, self.prepare, self.dispatch]

    # --- Steps --------------------------------------------------------------------------------------

    @activity.defn(name=Activity.RECEIVE)
    async def receive(self, request: StepRequest) -> StepResult:
        return await self._step(Activity.RECEIVE, request)

    @activity.defn(name=Activity.VALIDATE)
    async def validate(self, request: StepRequest) -> StepResult:
        return await self._step(Activity.VALIDATE, request)

    @activity.defn(name=Activity.CHARGE)
    async def charge(self, request: StepRequest) -> StepResult:
        return await self._step(Activity.CHARGE, request)

    @activity.defn(name=Activity.PREPARE)
    async def prepare(self, request: StepRequest) -> StepResult:
        return await self._step(Activity.PREPARE, request)

    @activity.defn(name=Activity.DISPATCH)
    async def dispatch(self, request: StepRequest) -> StepResult:
        return await self._step(Activity.DISPATCH, request)

    @activity.defn(name=Activity.RECALL)
    async def recall(self, request: StepRequest) -> StepResult:
        return await self._step(Activity.RECALL, request)

    @activity.defn(name=Activity.REFUND)
    async def refund(self, request: StepRequest) -> StepResult:
        return await self._step(Activity.REFUND, request)

    async def _step(self, name: Activity, request: StepRequest) -> StepResult:
        assert request.step is _STEP_OF[name]
        if not await self._begin(name, request.order_id):
            return StepResult(StepStatus.UNFINISHED, 1)
        order, cue = self.orders[request.order_id], self._cue(name, request.order_id)
        attempts = self.count(request.order_id)[name]
        if isinstance(cue, Exception):
            raise cue
        if isinstance(cue, StepStatus):
            if order.abort_reason is not None and request.step in DUE_STATE:
                return StepResult(StepStatus.ABORTED, attempts)
            return StepResult(cue, attempts, f"scripted {cue}")
        if request.step in DUE_STATE:
            status = self._forward(order, request.step, isinstance(cue, OnlyOutside))
        else:
            status = self._undo(order, request.step)
        await self._tell()
        if isinstance(cue, LostAnswer):
            raise RuntimeError("the answer was lost (scripted)")
        if isinstance(cue, OnlyOutside | OnlyDatabase):
            status = cue.status
        return StepResult(status, attempts)

    def _forward(self, order: FakeOrder, step: Step, only_outside: bool) -> StepStatus:
        if order.abort_reason is not None:
            return StepStatus.ABORTED
        if order.state is not DUE_STATE[step]:
            return StepStatus.DONE
        self._do_outside(order, step)
        if only_outside or step is Step.RECEIVE:
            return StepStatus.DONE
        order.move_to(STATE_AFTER[step])
        if step is Step.VALIDATE:
            order.move_to(State.IN_REVIEW)
        return StepStatus.DONE

    def _do_outside(self, order: FakeOrder, step: Step) -> None:
        if step is Step.CHARGE:
            assert not order.is_voided
            order.charges = 1
        elif step is Step.PREPARE:
            order.is_packed = True
        elif step is Step.DISPATCH:
            assert order.is_packed
            order.is_dispatched, order.label = True, order.address

    def _undo(self, order: FakeOrder, step: Step) -> StepStatus:
        if order.abort_reason is None or not State.DISPATCHED.is_past(order.state):
            return StepStatus.DONE
        if step is Step.REFUND:
            order.refunds, order.is_voided = order.charges, True
        else:
            order.is_called_off = order.is_unpacked = True
        return StepStatus.DONE

    # --- Decisions ----------------------------------------------------------------------------------

    @activity.defn(name=Activity.OPEN)
    async def open(self, request: OpenRequest) -> bool:
        order = request.order
        await self._begin_write(Activity.OPEN, order.order_id)
        known = self.orders.setdefault(
            order.order_id,
            FakeOrder(order.order_id, request.workflow_run_id, order.initial_address, order.amount_cents),
        )
        if known.workflow_run_id != request.workflow_run_id:
            raise ApplicationError("carried out before", type=DUPLICATE_ORDER, non_retryable=True)
        await self._end_write(Activity.OPEN, order.order_id)
        return True

    @activity.defn(name=Activity.ABORT)
    async def abort(self, request: AbortRequest) -> RequestResult:
        await self._begin_write(Activity.ABORT, request.order_id)
        order = self.orders[request.order_id]
        is_review = request.reason in (Reason.REVIEW_REJECTED, Reason.REVIEW_EXPIRED)
        before = State.APPROVED if is_review else State.DISPATCHED
        accepted = order.abort_reason is None and before.is_past(order.state)
        if accepted:
            order.abort_reason, order.abort = request.reason, request
        answer = self._answer(order, request.signal, request.request_id, accepted)
        await self._end_write(Activity.ABORT, request.order_id)
        return answer

    @activity.defn(name=Activity.APPROVE)
    async def approve(self, request: ApproveRequest) -> RequestResult:
        await self._begin_write(Activity.APPROVE, request.order_id)
        order = self.orders[request.order_id]
        accepted = order.abort_reason is None and order.state is State.IN_REVIEW
        if accepted:
            order.move_to(State.APPROVED)
            order.reviewer = request.reviewer
        answer = self._answer(order, request.signal, request.request_id, accepted)
        await self._end_write(Activity.APPROVE, request.order_id)
        return answer

    @activity.defn(name=Activity.CHANGE_ADDRESS)
    async def change_address(self, request: ChangeAddressRequest) -> RequestResult:
        await self._begin_write(Activity.CHANGE_ADDRESS, request.order_id)
        order = self.orders[request.order_id]
        accepted = (
            order.abort_reason is None
            and State.DISPATCHED.is_past(order.state)
            and request.request_id not in order.applied_request_ids
        )
        if accepted:
            order.address, order.address_version = request.new_address, order.address_version + 1
        answer = self._answer(order, "update_address", request.request_id, accepted)
        await self._end_write(Activity.CHANGE_ADDRESS, request.order_id)
        return answer

    @activity.defn(name=Activity.RECORD_REQUEST_EVENT)
    async def note_signal(self, request: RequestEvent) -> bool:
        await self._begin_write(Activity.RECORD_REQUEST_EVENT, request.order_id)
        self.orders[request.order_id].requests.append((request.signal, request.accepted))
        await self._end_write(Activity.RECORD_REQUEST_EVENT, request.order_id)
        return True

    @activity.defn(name=Activity.FINISH)
    async def finish(self, request: FinishRequest) -> OrderResult:
        await self._begin_write(Activity.FINISH, request.order_id)
        order = self.orders[request.order_id]
        if not order.state.is_terminal:
            if request.outcome is State.COMPLETED:
                is_ready = order.state is State.DISPATCHED
            else:
                is_ready = order.abort_reason is not None and order.charges == order.refunds
            if not is_ready:
                raise RuntimeError(f"{order.order_id} cannot be {request.outcome}: it is {order.state}")
            order.move_to(request.outcome)
        await self._end_write(Activity.FINISH, request.order_id)
        return OrderResult(order.order_id, order.state, order.abort_reason, COMPLETION_MS)

    def _answer(
        self, order: FakeOrder, signal: str | None, request_id: str | None, accepted: bool
    ) -> RequestResult:
        assert request_id is not None, "a repeated activity could not be recognised"
        if accepted:
            order.applied_request_ids.add(request_id)
        elif request_id in order.applied_request_ids:
            return RequestResult(True, "accepted", order.state, order.abort_reason)
        if signal is not None:
            order.requests.append((signal, accepted))
        message = "accepted" if accepted else f"too late: the order is {order.state}"
        return RequestResult(accepted, message, order.state, order.abort_reason)

    # --- Scripts and gates --------------------------------------------------------------------------

    async def _begin(self, name: Activity, order_id: str) -> bool:
        """Notes the call and waits at its gate. Returns False for a local call, which cannot wait."""
        is_local = activity.info().is_local
        self.calls[order_id].append((name, is_local))
        await self._tell()
        gate = self._gates.get((order_id, name))
        if gate is None or gate.opened.is_set():
            return True
        if is_local:
            return False
        gate.arrived.set()
        await self._tell()
        while not gate.opened.is_set():
            activity.heartbeat()
            order = self.orders.get(order_id)
            if order is not None and order.abort_reason is not None and name in FORWARD_ACTIVITIES:
                return True
            async with self._changed:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        return True

    async def _begin_write(self, name: Activity, order_id: str) -> None:
        if not await self._begin(name, order_id):
            raise RuntimeError("held, so that it goes on as a regular activity")
        cue = self._cue(name, order_id)
        if isinstance(cue, LostAnswer):
            self._scripts[order_id, name].insert(0, cue)
        elif isinstance(cue, Exception):
            raise cue

    async def _end_write(self, name: Activity, order_id: str) -> None:
        await self._tell()
        if isinstance(self._cue(name, order_id), LostAnswer):
            raise RuntimeError("the answer was lost (scripted)")

    def _cue(self, name: Activity, order_id: str) -> Any:
        script = self._scripts.get((order_id, name))
        return script.pop(0) if script else None

    async def open_gate(self, order_id: str, name: Activity) -> None:
        self._gates[order_id, name].opened.set()
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
