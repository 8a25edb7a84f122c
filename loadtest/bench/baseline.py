"""The bare shape: what Temporal itself costs for a parent, a child on its own queue and five activities.

It is the yardstick of the table: the same server, the same number of worker processes, nothing done.
"""

import asyncio
import signal
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from orchestrator.settings import Settings
from orchestrator.temporal_client import connect
from orchestrator.worker.main import STICKY_TIMEOUT, WORKFLOW_RUNNER

ORDER_QUEUE = "bare-order-tq"
SHIPPING_QUEUE = "bare-shipping-tq"
_TIMEOUT = timedelta(seconds=10)


@activity.defn(name="BareActivity")
async def bare_activity() -> None: ...


@workflow.defn
class BareOrderWorkflow:
    @workflow.run
    async def run(self, order_id: str) -> None:
        for _ in range(3):
            await workflow.execute_activity(bare_activity, start_to_close_timeout=_TIMEOUT)
        await workflow.execute_child_workflow(
            BareShippingWorkflow.run, id=f"bare-shipping-{order_id}", task_queue=SHIPPING_QUEUE
        )


@workflow.defn
class BareShippingWorkflow:
    @workflow.run
    async def run(self) -> None:
        for _ in range(2):
            await workflow.execute_activity(bare_activity, start_to_close_timeout=_TIMEOUT)


def bare_worker(client: Client, queue: str) -> Worker:
    workflow_class = BareOrderWorkflow if queue == ORDER_QUEUE else BareShippingWorkflow
    return Worker(
        client,
        task_queue=queue,
        workflows=[workflow_class],
        activities=[bare_activity],
        workflow_runner=WORKFLOW_RUNNER,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
    )


async def serve(queue: str) -> None:
    """Runs one bare worker until SIGTERM: `python -m loadtest.bench.baseline QUEUE`."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    client = await connect(Settings.load())
    async with bare_worker(client, queue):
        await stopping.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
