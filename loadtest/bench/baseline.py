"""The baseline: a workflow without business logic, with a child workflow and five empty activities.

The performance table shows the ratio of an order to this baseline, on the same Temporal server with the same
number of workers.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from orchestrator.processes import exit_immediately
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from orchestrator.worker.factory import STICKY_TIMEOUT, WORKFLOW_RUNNER

ORDER_QUEUE = "baseline-order-tq"
SHIPPING_QUEUE = "baseline-shipping-tq"
_TIMEOUT = timedelta(seconds=10)


@activity.defn(name="BaselineActivity")
async def baseline_activity() -> None: ...


@workflow.defn
class BaselineOrderWorkflow:
    @workflow.run
    async def run(self, order_id: str) -> None:
        for _ in range(3):
            await workflow.execute_activity(baseline_activity, start_to_close_timeout=_TIMEOUT)
        await workflow.execute_child_workflow(
            BaselineShippingWorkflow.run, id=f"baseline-shipping-{order_id}", task_queue=SHIPPING_QUEUE
        )


@workflow.defn
class BaselineShippingWorkflow:
    @workflow.run
    async def run(self) -> None:
        for _ in range(2):
            await workflow.execute_activity(baseline_activity, start_to_close_timeout=_TIMEOUT)


async def run_baseline_order(client: Client) -> None:
    """Run one baseline order from start to completion."""
    order_id = uuid4().hex
    await client.execute_workflow(
        BaselineOrderWorkflow.run, order_id, id=f"baseline-{order_id}", task_queue=ORDER_QUEUE
    )


@contextmanager
def baseline_workers(settings: Settings) -> Iterator[list[int]]:
    """Run as many baseline workers as the stack has workers, and yield their process ids."""
    queues = [ORDER_QUEUE] * settings.order_workers + [SHIPPING_QUEUE] * settings.shipping_workers
    commands = [[sys.executable, "-m", "loadtest.bench.baseline", queue] for queue in queues]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


async def _serve(queue: str) -> None:
    """Run one baseline worker until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    worker = Worker(
        await connect(Settings.load()),
        task_queue=queue,
        workflows=[BaselineOrderWorkflow if queue == ORDER_QUEUE else BaselineShippingWorkflow],
        activities=[baseline_activity],
        workflow_runner=WORKFLOW_RUNNER,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
    )
    async with worker:
        await stopping.wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
    exit_immediately()
