"""Creates the order worker and the shipping worker: workflows, activities, version and tuning."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig, WorkflowRunner

from orchestrator.settings import Settings
from orchestrator.worker.activity_set import ActivityMethods, WorkerActivities
from orchestrator.workflows.order import OrderWorkflow
from orchestrator.workflows.reconcile import ReconcileWorkflow
from orchestrator.workflows.shipping import ShippingWorkflow

STICKY_TIMEOUT = timedelta(seconds=1)
"""How long a workflow task waits for the worker that has the workflow cached before any worker may take it.
An order loses this time when its worker is killed."""

WORKFLOW_RUNNER: WorkflowRunner = UnsandboxedWorkflowRunner()
"""The sandbox costs a quarter of the worker's CPU (docs/decisions/0004). The workflow tests and the replay
of saved histories run in it and would fail on what it forbids."""

GRACEFUL_SHUTDOWN = timedelta(seconds=1.5)
"""How long the activities of a stopping worker may run before they are cancelled. A step returns after its
current attempt, which takes at most 0.2 s."""


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


def order_worker(
    client: Client,
    task_queue: str,
    activities: WorkerActivities,
    runner: WorkflowRunner | None = None,
    deployment: WorkerDeploymentConfig | None = None,
) -> Worker:
    workflows = [OrderWorkflow, ReconcileWorkflow]
    return _worker(client, task_queue, workflows, activities.for_order_worker, runner, deployment)


def shipping_worker(
    client: Client,
    task_queue: str,
    activities: WorkerActivities,
    runner: WorkflowRunner | None = None,
    deployment: WorkerDeploymentConfig | None = None,
) -> Worker:
    workflows = [ShippingWorkflow]
    return _worker(client, task_queue, workflows, activities.for_shipping_worker, runner, deployment)


def _worker(
    client: Client,
    task_queue: str,
    workflows: Sequence[type[Any]],
    activities: ActivityMethods,
    runner: WorkflowRunner | None,
    deployment: WorkerDeploymentConfig | None,
) -> Worker:
    return Worker(
        client,
        task_queue=task_queue,
        workflows=workflows,
        activities=activities,
        workflow_runner=runner or WORKFLOW_RUNNER,
        deployment_config=deployment,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        max_concurrent_activities=300,
        max_concurrent_local_activities=300,
        max_concurrent_workflow_tasks=200,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
    )
