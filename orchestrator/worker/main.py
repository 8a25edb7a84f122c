"""Worker processes: they poll a task queue and carry out its workflows and activities."""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.runtime import Runtime
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig, WorkflowRunner

from db import fault_profiles as fault_profiles
from db.database import Database
from db.domain import Step
from db.orders import OrderRepository
from orchestrator.activities.order import OrderActivities
from orchestrator.activities.payment import PaymentActivities
from orchestrator.activities.shipping import ShippingActivities
from orchestrator.activities.step_batch import StepBatchActivity
from orchestrator.activities.step_runner import AttemptObserver, StepRunner
from orchestrator.errors import ServiceUnavailable
from orchestrator.gateways.fault_injection import FaultProfile, ProfileFaultInjector, named_profile
from orchestrator.gateways.protocols import Gateways
from orchestrator.gateways.simulated import simulated_gateways
from orchestrator.observability import logs
from orchestrator.observability.tracing import Tracing
from orchestrator.processes import WorkerKind
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect
from orchestrator.worker.event_maintenance import EventMaintenance
from orchestrator.worker.liveness_file import show_alive
from orchestrator.worker.metrics import WorkerMetrics, measured_runtime
from orchestrator.worker.reconciler import Reconciler
from orchestrator.workflows.order import OrderWorkflow
from orchestrator.workflows.reconcile import ReconcileWorkflow
from orchestrator.workflows.shipping import ShippingWorkflow

STICKY_TIMEOUT = timedelta(seconds=1)
"""How long a workflow task waits for the worker that has the workflow in memory before any may take it:
what a killed worker costs its orders."""

WORKFLOW_RUNNER: WorkflowRunner = UnsandboxedWorkflowRunner()
"""The sandbox costs a quarter of the worker's CPU (docs/decisions/0004). The workflow tests and the
replay of saved histories run inside it, and would fail on what it forbids."""

HAND_OVER_TIME = timedelta(seconds=1.5)
"""How long activities of a worker that is ending may take until they are cancelled. Steps hand over after
the attempt under way, which is over in a sixth of this."""

STOP_SECONDS = 2.3
"""When a worker that was told to end does so whatever it still has in hand. What it does then, it must have
done in what is left of three seconds."""

CANCEL_SECONDS = 0.2
FAULTS_POLL_SECONDS = 0.4
FIRST_FAULTS_SECONDS = 2.0
"""How long a worker that starts waits for the fault profile in force. Without it, the first calls of a worker
that was started again would go through a perfect world."""

RECONNECT_SECONDS = 0.5

log = structlog.get_logger()


@dataclass(frozen=True)
class ActivitySet:
    """The activities of one worker."""

    orders: OrderActivities
    cashier: PaymentActivities
    shipping: ShippingActivities

    @property
    def order_side(self) -> StepBatchActivity:
        """What an order worker does in one go."""
        return StepBatchActivity(
            {
                Step.RECEIVE: self.orders.receive,
                Step.VALIDATE: self.orders.validate,
                Step.CHARGE: self.cashier.charge,
                Step.REFUND: self.cashier.refund,
                Step.RECALL: self.shipping.recall,
            },
            open_order=self.orders.open,
            approve=self.orders.approve,
        )

    @property
    def shipping_side(self) -> StepBatchActivity:
        """What a shipping worker does in one go."""
        return StepBatchActivity({Step.PREPARE: self.shipping.prepare, Step.DISPATCH: self.shipping.dispatch})

    @classmethod
    def open(
        cls,
        database: OrderRepository,
        faults: ProfileFaultInjector,
        gateways: Gateways,
        metrics: WorkerMetrics | None = None,
        tracing: Tracing | None = None,
    ) -> "ActivitySet":
        metrics = metrics or WorkerMetrics()
        notices: list[AttemptObserver] = [metrics.attempt_ended]
        if tracing is not None:
            notices.append(tracing.attempt_ended)
        attempts = StepRunner(database, faults, notices)
        return cls(
            orders=OrderActivities(database, attempts, gateways, metrics.order_finished),
            cashier=PaymentActivities(attempts, gateways.payments),
            shipping=ShippingActivities(attempts, gateways),
        )


def deployment_of(settings: Settings) -> WorkerDeploymentConfig | None:
    """The version that workers of these settings belong to; None when any may take any order.

    The behaviour is not told by the workflows' own definitions: Temporal refuses those of a worker without a
    version.
    """
    if settings.worker_build_id is None:
        return None
    version = WorkerDeploymentVersion(settings.worker_deployment_name, settings.worker_build_id)
    return WorkerDeploymentConfig(
        version=version,
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


def order_worker(
    client: Client,
    task_queue: str,
    activities: ActivitySet,
    runner: WorkflowRunner | None = None,
    deployment: WorkerDeploymentConfig | None = None,
) -> Worker:
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[OrderWorkflow, ReconcileWorkflow],
        activities=[
            activities.order_side.run_batch,
            activities.orders.open,
            activities.orders.receive,
            activities.orders.validate,
            activities.orders.approve,
            activities.orders.change_address,
            activities.orders.abort,
            activities.orders.record_request_event,
            activities.orders.finish,
            activities.cashier.charge,
            activities.cashier.refund,
            # Taking back is the order's own business: it must work while no shipping worker is there.
            activities.shipping.recall,
        ],
        workflow_runner=runner or WORKFLOW_RUNNER,
        deployment_config=deployment,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        max_concurrent_activities=300,
        max_concurrent_local_activities=300,
        max_concurrent_workflow_tasks=200,
        graceful_shutdown_timeout=HAND_OVER_TIME,
    )


def shipping_worker(
    client: Client,
    task_queue: str,
    activities: ActivitySet,
    runner: WorkflowRunner | None = None,
    deployment: WorkerDeploymentConfig | None = None,
) -> Worker:
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[ShippingWorkflow],
        activities=[
            activities.shipping_side.run_batch,
            activities.shipping.prepare,
            activities.shipping.dispatch,
        ],
        workflow_runner=runner or WORKFLOW_RUNNER,
        deployment_config=deployment,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        max_concurrent_activities=300,
        max_concurrent_local_activities=300,
        max_concurrent_workflow_tasks=200,
        graceful_shutdown_timeout=HAND_OVER_TIME,
    )


async def run(settings: Settings, kind: WorkerKind, name: str | None = None) -> None:
    """Serves until SIGINT or SIGTERM, and returns within STOP_SECONDS of the first one.

    Waits for PostgreSQL and Temporal, however long they are away.
    """
    name = name or f"{kind}-worker-{os.getpid()}@{socket.gethostname()}"
    logs.configure(settings, name)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(_set_up_and_serve(settings, kind, name, stopping))
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        log.info("worker stopping")
        await asyncio.wait([serving], timeout=STOP_SECONDS)
    stopped.cancel()
    if serving.done():
        serving.result()
        log.info("worker stopped")
    else:
        serving.cancel()
        await asyncio.wait([serving], timeout=CANCEL_SECONDS)
        log.warning("worker stopped with work in hand, which others repeat once it is missed")


async def _set_up_and_serve(settings: Settings, kind: WorkerKind, name: str, stopping: asyncio.Event) -> None:
    tracing = Tracing.of(settings, f"{kind}-worker", name)
    with measured_runtime(settings, name) as runtime:
        try:
            await _serve(settings, kind, name, stopping, runtime, tracing)
        except asyncio.CancelledError:
            # It is late already; a collector that is away would make it later.
            tracing = None
            raise
        finally:
            if tracing is not None:
                tracing.close()


async def _serve(
    settings: Settings,
    kind: WorkerKind,
    name: str,
    stopping: asyncio.Event,
    runtime: Runtime,
    tracing: Tracing | None,
) -> None:
    """Carries out work until told to stop, then hands over what is under way."""
    client = await _connected(settings, name, runtime, tracing)
    async with Database(settings.order_database_url, application_name=name) as database:
        metrics = WorkerMetrics(runtime.metric_meter)
        faults = ProfileFaultInjector(named_profile("none"))
        activities = ActivitySet.open(
            OrderRepository(database, name), faults, simulated_gateways(database), metrics, tracing
        )
        deployment = deployment_of(settings)
        workers = []
        background = [asyncio.create_task(metrics.follow_memory(), name="memory gauge")]
        if settings.liveness_file is not None:
            background.append(asyncio.create_task(show_alive(settings.liveness_file), name="liveness"))
        if kind in ("order", "all"):
            housekeeper = EventMaintenance(settings, database)
            await housekeeper.prepare()
            background.append(asyncio.create_task(housekeeper.run(), name="housekeeper"))
            reconciler = Reconciler(database, client, settings.order_task_queue, metrics)
            background.append(asyncio.create_task(reconciler.run(), name="reconciler"))
            workers.append(order_worker(client, settings.order_task_queue, activities, deployment=deployment))
        if kind in ("shipping", "all"):
            workers.append(
                shipping_worker(client, settings.shipping_task_queue, activities, deployment=deployment)
            )
        await know_faults(database, faults)
        background.append(asyncio.create_task(follow_faults(database, faults), name="fault profile"))
        running = [asyncio.create_task(worker.run()) for worker in workers]
        log.info("worker started", kind=kind, version=settings.worker_build_id)
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait([*running, *background, stopped], return_when=asyncio.FIRST_COMPLETED)
        # A worker without its background work would look well: it ends, and is started again whole.
        dead = [task for task in background if task.done()]
        for work in dead:
            log.error("worker ends: its background work is dead", work=work.get_name())
        for task in (*background, stopped):
            task.cancel()
        await asyncio.gather(*(worker.shutdown() for worker in workers))
        await asyncio.gather(*running, *dead)


async def know_faults(database: Database, faults: ProfileFaultInjector) -> None:
    """Sets the fault point to the profile that the books name, unless they are away for too long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_FAULTS_SECONDS):
            while not await _read_faults(database, faults):  # noqa: ASYNC110
                await asyncio.sleep(FAULTS_POLL_SECONDS)


async def follow_faults(database: Database, faults: ProfileFaultInjector) -> None:
    """Keeps the fault point at the profile that the books name, forever."""
    while True:
        await _read_faults(database, faults)
        await asyncio.sleep(FAULTS_POLL_SECONDS)


async def _read_faults(database: Database, faults: ProfileFaultInjector) -> bool:
    """Sets the fault point once; returns whether the books could be read."""
    try:
        change = await fault_profiles.current(database)
        if change is not None:
            profile = FaultProfile.from_json(change.profile, change.seed, change.rates)
            if profile != faults.profile:
                faults.profile = profile
                log.info("fault profile changed", profile=profile.name, seed=profile.seed)
    except ServiceUnavailable as error:
        log.warning("fault profile unknown, keeping the last one", error=str(error))
        return False
    except ValueError as error:
        log.warning("fault profile unknown, keeping the last one", error=str(error))
    return True


async def _connected(settings: Settings, identity: str, runtime: Runtime, tracing: Tracing | None) -> Client:
    interceptors = [tracing.interceptor] if tracing else []
    while True:
        try:
            return await connect(settings, identity=identity, runtime=runtime, interceptors=interceptors)
        except ServiceUnavailable:
            log.warning("waiting for Temporal", address=settings.temporal_target)
            await asyncio.sleep(RECONNECT_SECONDS)
