"""An order repository that sends a request exactly at the boundary of a cell."""

import asyncio
from datetime import timedelta
from time import monotonic
from typing import Any
from uuid import uuid4

import temporalio.client
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.update.v1 import UpdateRef
from temporalio.api.workflowservice.v1 import PollWorkflowExecutionUpdateRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import (
    Interceptor,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.workflow import ActivityHandle

from db.database import Database
from db.domain import COMPENSATIONS, NewOrder, RequestResult, State, Step, TemporalNamespace
from db.orders import AttemptResult, OrderRepository, OrderSnapshot, StartedAttempt
from orchestrator.errors import DatabaseUnavailable
from orchestrator.messages.ids import order_workflow_id
from orchestrator.messages.orders import OrderResult
from orchestrator.messages.requests import ApproveOrder, CancelOrder, RejectOrder, UpdateAddress
from orchestrator.temporal.client import is_not_ready
from orchestrator.workflows.order import OrderWorkflow
from tests.orders import OTHER_ADDRESS
from tests.races.grid import IN_REVIEW, OPEN, Answered, Boundary, Cell, Manner, Moment, Place, Request
from tests.shop import RepositoryFactory

PERSON = "anna"
MAX_WAIT_SECONDS = 1.0
"""Maximum wait of a step for its request; less than its heartbeat timeout."""

POLL_SECONDS = 0.005


class Race:
    """The running races: the cell of each order, and the response to its request."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cells: dict[str, Cell] = {}
        self._preludes: set[str] = set()
        self._tasks_to_lose: set[str] = set()
        self.sent: dict[str, asyncio.Task[Answered]] = {}

    def enter(self, order_id: str, cell: Cell) -> None:
        """Send the request of `cell` once when this order reaches its boundary."""
        self._cells[order_id] = cell
        if cell.boundary.step in COMPENSATIONS:
            self._preludes.add(order_id)

    def fail_local_activity(self, order_id: str, step: str) -> None:
        """Fail a step in a local activity if its cell needs a regular activity."""
        cell = self._cells.get(order_id)
        wants_activity = cell is not None and cell.boundary.step == step and cell.place is Place.ACTIVITY
        if wants_activity and activity.info().is_local:
            raise DatabaseUnavailable("the race needs a regular activity")

    async def reach(self, order_id: str, step: str, moment: Moment) -> None:
        """Send the request if this is the boundary of the order's cell."""
        if order_id in self._preludes and (step, moment) == (Step.PREPARE, Moment.AFTER):
            # Compensations need an aborted order.
            self._preludes.remove(order_id)
            await _done(asyncio.create_task(self._send_update(order_id, Request.CANCEL, uuid4().hex)))
        cell = self._cells.get(order_id)
        if cell is None or order_id in self.sent:
            return
        if cell.boundary == Boundary(step, moment):
            await self._send(order_id, cell)
        elif cell.boundary == IN_REVIEW and (step, moment) == (Step.VALIDATE, Moment.AFTER):
            self.sent[order_id] = asyncio.create_task(self._send_in_review(order_id, cell))

    def loses_task(self, order_id: str) -> bool:
        """Return whether the workflow task that reached the boundary must fail; True once."""
        if order_id not in self._tasks_to_lose:
            return False
        self._tasks_to_lose.remove(order_id)
        return True

    async def _send(self, order_id: str, cell: Cell) -> None:
        if cell.place is Place.LOST_TASK:
            self._tasks_to_lose.add(order_id)
        update_id = uuid4().hex
        request = asyncio.create_task(self._send_update(order_id, cell.request, update_id))
        self.sent[order_id] = request
        if cell.manner is Manner.ANSWERED:
            await _done(request)
        elif cell.manner is Manner.REACHED:
            await self._wait_until_stored(order_id, update_id, request)

    async def _send_in_review(self, order_id: str, cell: Cell) -> Answered:
        handle = self._handle(order_id)
        status = await handle.query(OrderWorkflow.status)
        while status.current_step is not Step.REVIEW:
            await asyncio.sleep(POLL_SECONDS)
            status = await handle.query(OrderWorkflow.status)
        return await self._send_update(order_id, cell.request, uuid4().hex)

    async def _send_update(self, order_id: str, request: Request, update_id: str) -> Answered:
        while True:
            try:
                return await self._execute_update(order_id, request, update_id)
            except RPCError as error:
                # The workflow task that fails here has just failed, so the request was not delivered.
                if not is_not_ready(error):
                    raise
            await asyncio.sleep(POLL_SECONDS)

    async def _execute_update(self, order_id: str, request: Request, update_id: str) -> Answered:
        handle = self._handle(order_id)
        try:
            answer: RequestResult
            match request:
                case Request.CANCEL:
                    answer = await handle.execute_update(
                        OrderWorkflow.cancel_order, CancelOrder("not wanted", PERSON), id=update_id
                    )
                case Request.ADDRESS:
                    answer = await handle.execute_update(
                        OrderWorkflow.update_address, UpdateAddress(OTHER_ADDRESS, PERSON), id=update_id
                    )
                case Request.APPROVE:
                    answer = await handle.execute_update(
                        OrderWorkflow.approve_order, ApproveOrder(PERSON), id=update_id
                    )
                case Request.REJECT:
                    answer = await handle.execute_update(
                        OrderWorkflow.reject_order, RejectOrder(PERSON, "suspicious"), id=update_id
                    )
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return Answered.CLOSED
            raise
        return Answered.ACCEPTED if answer.accepted else Answered.TOO_LATE

    async def _wait_until_stored(
        self, order_id: str, update_id: str, request: asyncio.Task[Answered]
    ) -> None:
        """Return once the server has stored the request."""
        wanted = PollWorkflowExecutionUpdateRequest(
            namespace=self._client.namespace,
            update_ref=UpdateRef(
                workflow_execution=WorkflowExecution(workflow_id=order_workflow_id(order_id)),
                update_id=update_id,
            ),
        )
        not_after = monotonic() + MAX_WAIT_SECONDS
        while not request.done() and monotonic() < not_after:
            try:
                await self._client.workflow_service.poll_workflow_execution_update(
                    wanted, timeout=timedelta(seconds=MAX_WAIT_SECONDS)
                )
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                await asyncio.sleep(POLL_SECONDS)
            else:
                return

    def _handle(self, order_id: str) -> WorkflowHandle[OrderWorkflow, OrderResult]:
        return self._client.get_workflow_handle_for(OrderWorkflow.run, order_workflow_id(order_id))


async def _done(request: asyncio.Task[Answered]) -> None:
    await asyncio.wait([request], timeout=MAX_WAIT_SECONDS)


class RacingRepository(OrderRepository):
    def __init__(self, database: Database, worker: str, temporal: TemporalNamespace, race: Race) -> None:
        super().__init__(database, worker, temporal)
        self._race = race

    async def insert_order(self, order: NewOrder) -> bool:
        self._race.fail_local_activity(order.order_id, OPEN)
        await self._race.reach(order.order_id, OPEN, Moment.BEFORE)
        inserted = await super().insert_order(order)
        await self._race.reach(order.order_id, OPEN, Moment.AFTER)
        return inserted

    async def start_next_attempt(
        self, order_id: str, step: Step, ended: AttemptResult | None = None
    ) -> StartedAttempt | None:
        self._race.fail_local_activity(order_id, step)
        await self._race.reach(order_id, step, Moment.BEFORE)
        attempt = await super().start_next_attempt(order_id, step, ended)
        if attempt is not None:
            await self._race.reach(order_id, step, Moment.IN_FLIGHT)
        return attempt

    async def complete_step(
        self, order_id: str, step: Step, ended: AttemptResult, label_version: int | None = None
    ) -> bool:
        await self._race.reach(order_id, step, Moment.ANSWERED)
        took_effect = await super().complete_step(order_id, step, ended, label_version)
        await self._race.reach(order_id, step, Moment.AFTER)
        return took_effect

    async def approve(
        self, order_id: str, reviewer: str, *, signal: str | None = None, request_id: str | None = None
    ) -> RequestResult:
        if signal is not None:
            return await super().approve(order_id, reviewer, signal=signal, request_id=request_id)
        self._race.fail_local_activity(order_id, Step.REVIEW)
        await self._race.reach(order_id, Step.REVIEW, Moment.ANSWERED)
        decision = await super().approve(order_id, reviewer, request_id=request_id)
        await self._race.reach(order_id, Step.REVIEW, Moment.AFTER)
        return decision

    async def finish(self, order_id: str, outcome: State) -> OrderSnapshot:
        self._race.fail_local_activity(order_id, Step.FINISH)
        await self._race.reach(order_id, Step.FINISH, Moment.BEFORE)
        snapshot = await super().finish(order_id, outcome)
        await self._race.reach(order_id, Step.FINISH, Moment.AFTER)
        return snapshot


class LosesTasks(temporalio.client.Interceptor, Interceptor):
    """Fails a workflow task, as a crash would, after the local activity that reached its boundary."""

    def __init__(self, race: Race) -> None:
        self._race = race

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        race = self._race

        class Outbound(WorkflowOutboundInterceptor):
            def start_local_activity(self, input: StartLocalActivityInput) -> ActivityHandle[Any]:
                handle = super().start_local_activity(input)
                return asyncio.create_task(self._lost_after(handle))  # type: ignore[return-value]

            async def _lost_after(self, handle: ActivityHandle[Any]) -> object:
                try:
                    return await handle
                finally:
                    if race.loses_task(order_of(workflow.info().workflow_id)):
                        raise TaskLost

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

        return Inbound


class TaskLost(RuntimeError):
    """Fails the workflow task, which the server then retries."""


def order_of(workflow_id: str) -> str:
    """Return the order id of an OrderWorkflow or ShippingWorkflow id."""
    kind, _, rest = workflow_id.partition("-")
    return rest.rpartition("-")[0] if kind == "shipping" else rest


def racing_repository(race: Race) -> RepositoryFactory:
    return lambda database, worker, temporal: RacingRepository(database, worker, temporal, race)
