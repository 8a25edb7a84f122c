"""`visible` execution on PostgreSQL and Temporal's development server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio
from temporalio.client import Client

from db.database import Database
from db.domain import ExecutionMode, Reason, State, Step
from db.maintenance.audit import audit_database
from db.orders import OrderRepository
from orchestrator.gateways.fault_injection import FaultInjector, FaultProfile, Rates, named_profile
from orchestrator.messages.activities import Activity
from orchestrator.messages.ids import order_workflow_id, shipping_workflow_id
from orchestrator.messages.orders import OrderRequest
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from orchestrator.worker.factory import ActivitySet, compensation_worker, order_worker, shipping_worker
from orchestrator.workflows.order import OrderWorkflow
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT
from tests.orders import new_order, provider_balance
from tests.shop import simulated_gateways
from tests.temporal_server import temporal_server

WAIT_SECONDS = 60


@dataclass(frozen=True)
class Site:
    client: Client
    pool: Database
    injector: FaultInjector
    settings: Settings

    async def start(self, order: OrderRequest):
        return await self.client.start_workflow(
            OrderWorkflow.run,
            order,
            id=order_workflow_id(order.order_id),
            task_queue=self.settings.order_task_queue,
            task_timeout=WORKFLOW_TASK_TIMEOUT,
        )

    async def started_activities(self, workflow_id: str):
        """Return name, Temporal's attempt and the last failure of each regular activity that was run."""
        names, found = {}, []
        history = await self.client.get_workflow_handle(workflow_id).fetch_history()
        for event in history.events:
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_id:
                names[event.event_id] = scheduled.activity_type.name
            started = event.activity_task_started_event_attributes
            if started.scheduled_event_id:
                found.append((names[started.scheduled_event_id], started.attempt, started.last_failure))
        return found


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with temporal_server() as settings:
        yield settings


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(settings: Settings, pool: Database, repository: OrderRepository) -> AsyncIterator[Site]:
    client = await connect(settings)
    injector = FaultInjector(named_profile("none"))
    activities = ActivitySet.create(repository, injector, simulated_gateways(pool))
    async with (
        order_worker(client, settings.order_task_queue, activities),
        compensation_worker(client, settings.order_task_queue, activities),
        shipping_worker(client, settings.shipping_task_queue, activities),
    ):
        yield Site(client, pool, injector, settings)


def visible_order() -> OrderRequest:
    return new_order(auto_review_seconds=0.1, execution=ExecutionMode.VISIBLE, limit_seconds=120)


def always(step: Step, **rates: float) -> FaultProfile:
    return FaultProfile("custom", 1, Rates(), {step: Rates(**rates)})


async def test_every_attempt_of_a_step_is_an_attempt_of_its_activity(site, driver):
    site.injector.profile = named_profile("assignment", seed=3)
    # The faults follow from seed, order, step and attempt: this order meets both kinds, eight in all.
    order = replace(visible_order(), order_id="visible-39", payment_id="payment-visible-39")
    handle = await site.start(order)
    async with asyncio.timeout(WAIT_SECONDS):
        result = await handle.result()
    assert result.outcome is State.COMPLETED
    of_order = await site.started_activities(handle.id)
    of_shipment = await site.started_activities(shipping_workflow_id(order.order_id, 1))
    names = [Activity.RECEIVE, Activity.VALIDATE, Activity.CHARGE, Activity.PREPARE, Activity.DISPATCH]
    assert [name for name, _, _ in of_order + of_shipment] == names
    last_attempts = {step: attempt for step, attempt, _ in await driver.attempts(order.order_id)}
    assert [attempt for _, attempt, _ in of_order + of_shipment] == list(last_attempts.values())
    failures = [failure for _, attempt, failure in of_order + of_shipment if attempt > 1]
    assert failures
    for failure in failures:
        messages = {"GatewayError": "failed (simulated)", "GatewayTimeout": "no response within 200 ms"}
        assert failure.message.endswith(messages[failure.application_failure_info.type])
    outcomes = {outcome for _, _, outcome in await driver.attempts(order.order_id)}
    assert outcomes == {"ok", "error", "timeout"}
    audited = await audit_database(site.pool)
    assert [found for found in audited.violations if found.order_id == order.order_id] == []


@pytest.mark.parametrize("fault", ["error", "hang"])
async def test_a_cancellation_while_a_step_waits_for_its_retry_takes_effect(site, driver, fault):
    site.injector.profile = always(Step.CHARGE, **{fault: 1.0})
    order = visible_order()
    handle = await site.start(order)
    async with asyncio.timeout(WAIT_SECONDS):
        while not await is_waiting_for_a_retry(handle, Activity.CHARGE):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        cancelled = await handle.execute_update(
            "cancel_order", {"reason": "changed my mind", "cancelled_by": "customer"}
        )
        result = await handle.result()
    assert cancelled["accepted"]
    assert (result.outcome, result.reason) == (State.CANCELLED, Reason.CUSTOMER_CANCELLED)
    assert await provider_balance(site.pool, order.payment_id) == (0, 0)
    assert (await driver.payment(order.order_id))["status"] == "voided"


async def is_waiting_for_a_retry(handle, name: Activity) -> bool:
    pending = (await handle.describe()).raw_description.pending_activities
    return any(each.activity_type.name == name and each.attempt > 2 for each in pending)
