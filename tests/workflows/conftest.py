"""A Temporal server for the session, with workers whose activities are in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from db.domain import ExecutionMode, ReviewMode, State
from orchestrator.embedded.layout import packaged_program
from orchestrator.messages.activities import Activity
from orchestrator.messages.ids import order_workflow_id
from orchestrator.messages.orders import OrderRequest, OrderResult, OrderStatus
from orchestrator.testing import InMemoryOrder, ScriptedOutcome
from orchestrator.worker.factory import compensation_worker, order_worker, shipping_worker
from orchestrator.workflows.order import OrderWorkflow
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT
from tests.orders import new_order
from tests.workflows.held_activities import HeldActivities

ORDER_QUEUE = "order-tq"
SHIPPING_QUEUE = "shipping-tq"
WAIT_SECONDS = 60
HERE = Path(__file__).parent

HELD_IN: dict[State, Activity] = {
    State.RECEIVED: Activity.RECEIVE,
    State.APPROVED: Activity.CHARGE,
    State.CHARGED: Activity.PREPARE,
    State.PREPARED: Activity.DISPATCH,
    State.DISPATCHED: Activity.FINISH,
}
"""The activity to hold so that an order stays in a state."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The SDK warns when an activity ends while it is being cancelled. As an error it would end the worker.
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore:Cannot find activity to cancel"))


@pytest.fixture(scope="session")
def fast_env(request: pytest.FixtureRequest) -> "OrderEnvironment":
    """An environment on the server that the command line selects, with orders in `fast` execution."""
    is_local = request.config.getoption("--workflow-environment") == "local"
    env: OrderEnvironment = request.getfixturevalue("real_env" if is_local else "time_skipping_env")
    return env


@pytest.fixture(scope="session")
def env(fast_env: "OrderEnvironment") -> "OrderEnvironment":
    """The environment of most tests; a test module can replace it."""
    return fast_env


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def time_skipping_env() -> AsyncIterator["OrderEnvironment"]:
    async with _time_skipping() as env:
        yield env


@pytest_asyncio.fixture(loop_scope="session")
async def fresh_time_skipping_env() -> AsyncIterator["OrderEnvironment"]:
    """An environment without other orders. The server skips no time while any activity runs, and other tests
    leave orders whose activities are held."""
    async with _time_skipping() as env:
        yield env


@asynccontextmanager
async def _time_skipping() -> AsyncIterator["OrderEnvironment"]:
    async with (
        await WorkflowEnvironment.start_time_skipping(
            test_server_existing_path=packaged_program("temporal-test-server")
        ) as temporal,
        with_workers(temporal.client) as env,
    ):
        yield env


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_env() -> AsyncIterator["OrderEnvironment"]:
    """An environment on the development server, for what the time-skipping server does not support."""
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=packaged_program("temporal"), dev_server_log_level="error"
        ) as temporal,
        with_workers(temporal.client) as env,
    ):
        yield env


@asynccontextmanager
async def with_workers(client: Client) -> AsyncIterator["OrderEnvironment"]:
    activities = HeldActivities()
    # The sandbox rejects nondeterministic code. The product's workers run without it.
    runner = SandboxedWorkflowRunner()
    async with (
        order_worker(client, ORDER_QUEUE, activities, workflow_runner=runner),
        compensation_worker(client, ORDER_QUEUE, activities, workflow_runner=runner),
        shipping_worker(client, SHIPPING_QUEUE, activities, workflow_runner=runner),
    ):
        yield OrderEnvironment(client, activities)


class OrderEnvironment:
    """A Temporal server with an order worker and a shipping worker."""

    def __init__(
        self, client: Client, activities: HeldActivities, execution: ExecutionMode = ExecutionMode.FAST
    ) -> None:
        self.client = client
        self.activities = activities
        self.execution = execution

    def executing(self, execution: ExecutionMode) -> "OrderEnvironment":
        return OrderEnvironment(self.client, self.activities, execution)

    async def place(
        self,
        scripts: dict[Activity, list[ScriptedOutcome]] | None = None,
        *,
        hold: tuple[Activity, ...] = (),
        **changes: Any,
    ) -> "PlacedOrder":
        """Start the workflow of a new order. Its review takes no time unless `changes` set another."""
        order = replace(new_order(auto_review_seconds=0.0, execution=self.execution), **changes)
        for name, script in (scripts or {}).items():
            self.activities.script(order.order_id, name, script)
        for name in hold:
            self.activities.hold(order.order_id, name)
        handle = await self.client.start_workflow(
            OrderWorkflow.run,
            order,
            id=order_workflow_id(order.order_id),
            task_queue=ORDER_QUEUE,
            task_timeout=WORKFLOW_TASK_TIMEOUT,
            execution_timeout=timedelta(minutes=30),
        )
        return PlacedOrder(self, order, handle)

    async def place_in(
        self, state: State, *, hold: tuple[Activity, ...] = (), **changes: Any
    ) -> "PlacedOrder":
        """Start an order that stays in a state until `resume`; in review it waits for a person."""
        if state is State.IN_REVIEW:
            placed = await self.place(hold=hold, review=ReviewMode.MANUAL, **changes)
            await placed.wait_until_in_review()
        elif state.is_terminal:
            placed = await self.place(hold=hold, **changes)
            await placed.result()
        else:
            placed = await self.place(hold=(HELD_IN[state], *hold), **changes)
            await placed.wait_until_held(HELD_IN[state])
        assert placed.stored.state is state
        return placed


class PlacedOrder:
    """One order under test."""

    def __init__(
        self,
        env: OrderEnvironment,
        order: OrderRequest,
        handle: WorkflowHandle[OrderWorkflow, OrderResult],
    ) -> None:
        self.env = env
        self.order = order
        self.id = order.order_id
        self.handle = handle

    @property
    def stored(self) -> InMemoryOrder:
        return self.env.activities.orders[self.id]

    @property
    def calls(self) -> list[tuple[Activity, bool]]:
        return self.env.activities.calls[self.id]

    def count(self, name: Activity) -> int:
        return [called for called, _ in self.calls].count(name)

    async def result(self) -> OrderResult:
        """Return the workflow's result, after checking it against the stored order and its invariants."""
        async with asyncio.timeout(WAIT_SECONDS):
            result = await self.handle.result()
        assert result.order_id == self.id
        assert (result.outcome, result.reason) == (self.stored.state, self.stored.abort_reason)
        assert self.stored.violations() == []
        return result

    async def status(self) -> OrderStatus:
        return await self.handle.query(OrderWorkflow.status)

    async def wait_until_held(self, name: Activity) -> None:
        gate = self.env.activities.hold(self.id, name)
        async with asyncio.timeout(WAIT_SECONDS):
            await gate.reached.wait()

    async def wait_until(self, condition: Callable[[InMemoryOrder], Any]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while self.id not in self.env.activities.orders or not condition(self.stored):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def wait_until_in_review(self) -> None:
        await self.wait_until(lambda stored: stored.state is State.IN_REVIEW)
        async with asyncio.timeout(WAIT_SECONDS):
            while (await self.status()).current_step != "review":  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def release(self, name: Activity) -> None:
        self.env.activities.release(self.id, name)

    async def resume(self, state: State) -> None:
        """Let an order continue that was placed in a state."""
        if state in HELD_IN:
            self.release(HELD_IN[state])
        elif state is State.IN_REVIEW and self.stored.state is state and self.stored.abort is None:
            await self.handle.signal("ApproveOrder", {"reviewer": "tester"})
