"""Creates the workers of orders, compensations and shipments: workflows, activities, version and tuning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig, WorkflowRunner

from db.domain import Step
from db.orders import OrderRepository
from orchestrator.activities.order import OrderActivities
from orchestrator.activities.payment import PaymentActivities
from orchestrator.activities.shipping import ShippingActivities
from orchestrator.activities.step_batch import StepBatchActivity
from orchestrator.activities.step_runner import AttemptObserver, StepRunner
from orchestrator.gateways.fault_injection import FaultInjector
from orchestrator.gateways.protocols import Gateways
from orchestrator.messages.ids import compensation_task_queue
from orchestrator.observability.tracing import Tracing
from orchestrator.settings import Settings
from orchestrator.worker.metrics import WorkerMetrics
from orchestrator.worker.rejected_values import RejectedValues
from orchestrator.workflows.order import OrderWorkflow
from orchestrator.workflows.reconcile import ReconcileWorkflow
from orchestrator.workflows.shipping import ShippingWorkflow

STICKY_TIMEOUT = timedelta(seconds=1)
"""How long a workflow task waits for the worker that has the workflow cached before any worker may take it.
An order loses this time when its worker is killed."""

WORKFLOW_RUNNER: WorkflowRunner = UnsandboxedWorkflowRunner()
"""The sandbox costs a quarter of the worker's CPU (docs/decisions/0004). The workflow tests and the replay
of saved histories run in the sandbox, and fail on code that it forbids."""

GRACEFUL_SHUTDOWN = timedelta(seconds=1.5)
"""How long the activities of a stopping worker may run before they are cancelled. A step returns after its
current attempt, which takes at most 0.2 s at a simulated gateway. A longer call that is cancelled is retried
with the same idempotency key."""

MAX_COMPENSATIONS = 100
"""Compensations that one worker runs at a time. Their slots are separate, so that refunds that hang cannot
delay charges."""

ActivityMethods = Sequence[Callable[..., Any]]


class WorkerActivities(Protocol):
    """The activities of both kinds of workers; `orchestrator.testing` has an in-memory implementation."""

    @property
    def for_order_worker(self) -> ActivityMethods: ...

    @property
    def for_compensation_worker(self) -> ActivityMethods: ...

    @property
    def for_shipping_worker(self) -> ActivityMethods: ...


@dataclass(frozen=True)
class ActivitySet:
    """The activities that write to the order database and call the gateways. `fault_injector` is None for
    real gateways."""

    orders: OrderActivities
    payments: PaymentActivities
    shipping: ShippingActivities

    @classmethod
    def create(
        cls,
        repository: OrderRepository,
        fault_injector: FaultInjector | None,
        gateways: Gateways,
        metrics: WorkerMetrics | None = None,
        tracing: Tracing | None = None,
    ) -> "ActivitySet":
        metrics = metrics or WorkerMetrics()
        observers: list[AttemptObserver] = [metrics.attempt_ended]
        if tracing is not None:
            observers.append(tracing.attempt_ended)
        steps = StepRunner(repository, fault_injector, observers, gateways.calls)
        return cls(
            orders=OrderActivities(repository, steps, gateways, metrics.order_finished),
            payments=PaymentActivities(steps, gateways.payments),
            shipping=ShippingActivities(steps, gateways),
        )

    @property
    def _step_batch(self) -> StepBatchActivity:
        steps = {
            Step.RECEIVE: self.orders.receive,
            Step.VALIDATE: self.orders.validate,
            Step.CHARGE: self.payments.charge,
            Step.PREPARE: self.shipping.prepare,
            Step.DISPATCH: self.shipping.dispatch,
            Step.RECALL: self.shipping.recall,
            Step.REFUND: self.payments.refund,
        }
        return StepBatchActivity(steps, self.orders.open, self.orders.approve)

    @property
    def for_order_worker(self) -> ActivityMethods:
        return [
            self._step_batch.run_batch,
            self.orders.open,
            self.orders.receive,
            self.orders.validate,
            self.orders.approve,
            self.orders.change_address,
            self.orders.abort,
            self.orders.record_request_event,
            self.orders.finish,
            self.payments.charge,
        ]

    @property
    def for_compensation_worker(self) -> ActivityMethods:
        return [self.payments.refund, self.shipping.recall]

    @property
    def for_shipping_worker(self) -> ActivityMethods:
        return [self._step_batch.run_batch, self.shipping.prepare, self.shipping.dispatch]


def deployment_config(settings: Settings) -> WorkerDeploymentConfig | None:
    """Return the version of these workers, or None for workers without a version.

    The workflow definitions do not declare the versioning behavior: Temporal rejects it for workers without
    a version.
    """
    if settings.worker_build_id is None:
        return None
    version = WorkerDeploymentVersion(settings.worker_deployment_name, settings.worker_build_id)
    return WorkerDeploymentConfig(
        version=version,
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


def order_worker(client: Client, task_queue: str, activities: WorkerActivities, **options: Any) -> Worker:
    """Return a worker for orders; `options` are further arguments of the SDK's Worker."""
    workflows = [OrderWorkflow, ReconcileWorkflow]
    return _worker(client, task_queue, workflows, activities.for_order_worker, options)


def compensation_worker(
    client: Client, order_task_queue: str, activities: WorkerActivities, **options: Any
) -> Worker:
    """Return a worker for the compensations that are not done in an order's local activity.

    Every process with an order worker has one. `options` are further arguments of the SDK's Worker.
    """
    queue = compensation_task_queue(order_task_queue)
    options = {"max_concurrent_activities": MAX_COMPENSATIONS} | options
    return _worker(client, queue, [], activities.for_compensation_worker, options)


def shipping_worker(client: Client, task_queue: str, activities: WorkerActivities, **options: Any) -> Worker:
    """Return a worker for shipments; `options` are further arguments of the SDK's Worker."""
    return _worker(client, task_queue, [ShippingWorkflow], activities.for_shipping_worker, options)


def _worker(
    client: Client,
    task_queue: str,
    workflows: Sequence[type[Any]],
    activities: ActivityMethods,
    options: dict[str, Any],
) -> Worker:
    defaults: dict[str, Any] = {
        "workflow_runner": WORKFLOW_RUNNER,
        "sticky_queue_schedule_to_start_timeout": STICKY_TIMEOUT,
        "max_concurrent_activities": 300,
        "max_concurrent_local_activities": 300,
        "max_concurrent_workflow_tasks": 200,
        "graceful_shutdown_timeout": GRACEFUL_SHUTDOWN,
        "interceptors": [RejectedValues()],
    }
    return Worker(
        client, task_queue=task_queue, workflows=workflows, activities=activities, **defaults | options
    )
