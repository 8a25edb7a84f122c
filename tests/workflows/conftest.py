"""A Temporal server for the session, and workers whose activities are the fake desks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from db.domain import ReviewMode, State
from orchestrator.embedded.packaged_programs import packaged_program
from orchestrator.messages import Activity, OrderRequest, OrderResult, OrderStatus
from orchestrator.workflow_ids import order_workflow_id
from orchestrator.workflows.order import OrderWorkflow
from orchestrator.workflows.reconcile import ReconcileWorkflow
from orchestrator.workflows.shipping import ShippingWorkflow
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT
from tests.orders import new_order
from tests.workflows.fake_activities import FakeActivities, FakeOrder, Script

ORDER_QUEUE = "order-tq"
SHIPPING_QUEUE = "shipping-tq"
WAIT_SECONDS = 10
HERE = Path(__file__).parent

HELD_IN: dict[State, Activity] = {
    State.RECEIVED: Activity.RECEIVE,
    State.APPROVED: Activity.CHARGE,
    State.CHARGED: Activity.PREPARE,
    State.PREPARED: Activity.DISPATCH,
    State.DISPATCHED: Activity.FINISH,
}
"""The activity to hold so that an order stands still in a state."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The SDK warns when an activity has ended in the moment in which it is to be cancelled. As an error that
    # would end the worker.
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore:Cannot find activity to cancel"))


@pytest.fixture(scope="session")
def shop(request: pytest.FixtureRequest) -> "Shop":
    """A shop on the server that the command line asks for."""
    is_local = request.config.getoption("--workflow-environment") == "local"
    shop: Shop = request.getfixturevalue("real_shop" if is_local else "quick_shop")
    return shop


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def quick_shop() -> AsyncIterator["Shop"]:
    """A shop on the server that skips time."""
    async with (
        await WorkflowEnvironment.start_time_skipping(
            test_server_existing_path=packaged_program("temporal-test-server")
        ) as environment,
        open_shop(environment.client) as shop,
    ):
        yield shop


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_shop() -> AsyncIterator["Shop"]:
    """A shop on a real server, for what the one that skips time cannot do."""
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=packaged_program("temporal"), dev_server_log_level="error"
        ) as environment,
        open_shop(environment.client) as shop,
    ):
        yield shop


@asynccontextmanager
async def open_shop(client: Client) -> AsyncIterator["Shop"]:
    activities = FakeActivities()
    # The sandbox refuses what would not be deterministic; the product's workers do without it.
    runner = SandboxedWorkflowRunner()
    async with (
        Worker(
            client,
            task_queue=ORDER_QUEUE,
            workflows=[OrderWorkflow, ReconcileWorkflow],
            activities=activities.for_orders,
            workflow_runner=runner,
        ),
        Worker(
            client,
            task_queue=SHIPPING_QUEUE,
            workflows=[ShippingWorkflow],
            activities=activities.for_shipping,
            workflow_runner=runner,
        ),
    ):
        yield Shop(client, activities)


class Shop:
    """Where tests place orders."""

    def __init__(self, client: Client, activities: FakeActivities) -> None:
        self.client = client
        self.activities = activities

    async def place(
        self,
        scripts: dict[Activity, Script] | None = None,
        *,
        hold: tuple[Activity, ...] = (),
        **changes: Any,
    ) -> "Placed":
        """Starts the workflow of a new order, whose review takes no time unless `changes` say otherwise."""
        order = replace(new_order(auto_review_seconds=0.0), **changes)
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
        return Placed(self, order, handle)

    async def place_in(self, state: State, **changes: Any) -> "Placed":
        """An order that stands still in a state until `go_on`; in review it waits for a person."""
        if state is State.IN_REVIEW:
            placed = await self.place(review=ReviewMode.MANUAL, **changes)
            await placed.until_in_review()
        elif state.is_terminal:
            placed = await self.place(**changes)
            await placed.result()
        else:
            placed = await self.place(hold=(HELD_IN[state],), **changes)
            await placed.until_held(HELD_IN[state])
        assert placed.orders.state is state
        return placed


class Placed:
    """One order under test."""

    def __init__(
        self, shop: Shop, order: OrderRequest, handle: WorkflowHandle[OrderWorkflow, OrderResult]
    ) -> None:
        self.shop = shop
        self.order = order
        self.id = order.order_id
        self.handle = handle

    @property
    def orders(self) -> FakeOrder:
        return self.shop.activities.orders[self.id]

    @property
    def calls(self) -> list[tuple[Activity, bool]]:
        return self.shop.activities.calls[self.id]

    def count(self, name: Activity) -> int:
        return self.shop.activities.count(self.id)[name]

    async def result(self) -> OrderResult:
        """The workflow's result, held against the books and what the outside holds."""
        async with asyncio.timeout(WAIT_SECONDS):
            result = await self.handle.result()
        assert result.order_id == self.id
        assert (result.outcome, result.reason) == (self.orders.state, self.orders.abort_reason)
        assert self.orders.problems() == []
        return result

    async def status(self) -> OrderStatus:
        return await self.handle.query(OrderWorkflow.status)

    async def until_held(self, name: Activity) -> None:
        gate = self.shop.activities.hold(self.id, name)
        async with asyncio.timeout(WAIT_SECONDS):
            await gate.arrived.wait()

    async def until(self, condition: Any) -> None:
        await self.shop.activities.until(
            lambda: self.id in self.shop.activities.orders and condition(self.orders), WAIT_SECONDS
        )

    async def until_in_review(self) -> None:
        await self.until(lambda orders: orders.state is State.IN_REVIEW)
        async with asyncio.timeout(WAIT_SECONDS):
            while (await self.status()).current_step != "review":  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def let_go(self, name: Activity) -> None:
        await self.shop.activities.open_gate(self.id, name)

    async def go_on(self, state: State) -> None:
        """Lets an order go on that was placed in a state."""
        if state in HELD_IN:
            await self.let_go(HELD_IN[state])
        elif state is State.IN_REVIEW and self.orders.state is state and self.orders.abort_reason is None:
            await self.handle.signal("ApproveOrder", {"reviewer": "tester"})
