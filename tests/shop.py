"""Workers in the test's own process, on real servers, with activities that a test can replace."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy

from db.database import Database, Row
from db.domain import TemporalNamespace
from db.orders import OrderRepository
from orchestrator.gateways.fault_injection import FaultInjector
from orchestrator.gateways.protocols import Gateways
from orchestrator.gateways.simulated import SimulatedCarrier, SimulatedPayments, SimulatedWarehouse
from orchestrator.messages.ids import order_workflow_id
from orchestrator.messages.orders import OrderRequest, OrderResult
from orchestrator.temporal.client import temporal_namespace
from orchestrator.temporal.search_attributes import of_run
from orchestrator.worker.factory import ActivitySet, compensation_worker, order_worker, shipping_worker
from orchestrator.workflows.order import OrderWorkflow
from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT
from tests.orders import ADDRESS

RepositoryFactory = Callable[[Database, str, TemporalNamespace], OrderRepository]
ActivitySetFactory = Callable[[OrderRepository, FaultInjector, Gateways], ActivitySet]
VISIBLE_SECONDS = 60.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Shop:
    """An order worker and a shipping worker on separate task queues. Its orders have its `run_id`."""

    run_id: str
    client: Client
    pool: Database
    order_queue: str
    shipping_queue: str

    def order(self, name: str, **changes: Any) -> OrderRequest:
        """Return an order for this shop with a short review, without starting it."""
        order_id = f"{self.run_id}-{name}"
        order = OrderRequest(
            order_id,
            ADDRESS,
            f"pay-{order_id}",
            datetime.now(UTC),
            auto_review_seconds=0.05,
            run_id=self.run_id,
            shipping_task_queue=self.shipping_queue,
        )
        return replace(order, **changes)

    async def place(
        self,
        order: OrderRequest,
        reuse: WorkflowIDReusePolicy = WorkflowIDReusePolicy.REJECT_DUPLICATE,
    ) -> WorkflowHandle[OrderWorkflow, OrderResult]:
        """Start the order as the API does."""
        return await self.client.start_workflow(
            OrderWorkflow.run,
            order,
            id=order_workflow_id(order.order_id),
            task_queue=self.order_queue,
            task_timeout=WORKFLOW_TASK_TIMEOUT,
            id_reuse_policy=reuse,
            search_attributes=of_run(self.run_id),
        )

    async def row(self, order_id: str) -> Row | None:
        return await self.pool.fetch_one("select * from orders where order_id = %(id)s", {"id": order_id})

    async def until_visible(self, handles: list[WorkflowHandle[Any, Any]]) -> None:
        """Wait until Temporal lists these workflows as closed, which happens with a delay."""
        wanted = {handle.result_run_id or handle.run_id for handle in handles}
        query = f"TaskQueue = '{self.order_queue}' AND ExecutionStatus != 'Running'"
        async with asyncio.timeout(VISIBLE_SECONDS):
            while True:
                closed = {execution.run_id async for execution in self.client.list_workflows(query)}
                if wanted <= closed:
                    return
                await asyncio.sleep(POLL_SECONDS)


def simulated_gateways(database: Database) -> Gateways:
    return Gateways(
        payments=SimulatedPayments(database),
        warehouse=SimulatedWarehouse(database),
        carrier=SimulatedCarrier(database),
    )


@asynccontextmanager
async def open_shop(
    client: Client,
    pool: Database,
    faults: FaultInjector,
    *,
    name: str = "shop",
    repository: RepositoryFactory = OrderRepository,
    activities: ActivitySetFactory = ActivitySet.create,
) -> AsyncIterator[Shop]:
    """Run the workers of a shop until the block ends."""
    run_id = f"{name}-{uuid4().hex[:8]}"
    shop = Shop(run_id, client, pool, f"{run_id}-orders", f"{run_id}-shipping")
    orders = repository(pool, run_id, await temporal_namespace(client))
    worker_activities = activities(orders, faults, simulated_gateways(pool))
    async with (
        order_worker(client, shop.order_queue, worker_activities),
        compensation_worker(client, shop.order_queue, worker_activities),
        shipping_worker(client, shop.shipping_queue, worker_activities),
    ):
        yield shop
