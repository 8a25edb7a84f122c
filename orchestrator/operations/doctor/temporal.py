"""Findings about the Temporal server, the task queues and the versions of the workers."""

import asyncio
from collections.abc import Callable, Iterator

from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.worker.v1 import WorkerHeartbeat
from temporalio.api.workflowservice import v1 as api
from temporalio.client import Client
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from orchestrator.embedded.layout import Layout
from orchestrator.errors import SettingsError, TemporalUnavailable
from orchestrator.operations.doctor.report import Report
from orchestrator.settings import Settings
from orchestrator.startup.findings import Finding, first_line
from orchestrator.startup.temporal import NAMESPACE_MISSING, check_temporal, server_version
from orchestrator.temporal import task_queues
from orchestrator.temporal.client import connect

CHECK_SECONDS = 3.0
BACKLOG_AGE_SECONDS = 3.0


async def check(settings: Settings, clock: Callable[[], float]) -> Report:
    """Check Temporal and the workers. Temporal may be unavailable."""
    single_attempt = RetryConfig(max_retries=1, max_elapsed_time_millis=1_000)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            client = await connect(settings, identity="doctor", retry_config=single_attempt)
            return await _check(client, settings, clock)
    except TimeoutError:
        reason = "no response in time"
    except (SettingsError, TemporalUnavailable, RPCError, RuntimeError) as error:
        reason = first_line(error if isinstance(error, SettingsError) else error.__cause__ or error)
    log = Layout(settings).log("temporal")
    advice = (
        f"Read {log}."
        if settings.uses_embedded_temporal
        else "Start that server, or correct TEMPORAL_ADDRESS."
    )
    return Report([Finding("temporal-unavailable", f"Temporal is unavailable: {reason}.", advice)])


async def _check(client: Client, settings: Settings, clock: Callable[[], float]) -> Report:
    report = Report(await check_temporal(client, clock))
    if any(finding.key == NAMESPACE_MISSING for finding in report.findings):
        return report
    heartbeats = await task_queues.worker_heartbeats(client)
    waiting = []
    for name in (settings.order_task_queue, settings.shipping_task_queue):
        workflows = await task_queues.describe_task_queue(client, name)
        activities = await task_queues.describe_task_queue(client, name, activities=True)
        polls = list(task_queues.poll_times(workflows).values())
        stats = (workflows.stats, activities.stats)
        backlog = sum(tasks.approximate_backlog_count for tasks in stats)
        age = max(tasks.approximate_backlog_age.ToTimedelta().total_seconds() for tasks in stats)
        has_workers = task_queues.is_served(name, heartbeats, polls)
        report.findings += queue_findings(name, has_workers, backlog, age)
        waiting.append(f"{name} {backlog} waiting")
    version = await server_version(client)
    report.measurements.append(f"queues    Temporal {version}: {', '.join(waiting)}")
    report.findings += await _check_versions(client, settings, heartbeats)
    return report


def queue_findings(name: str, has_workers: bool, backlog: int, oldest_seconds: float) -> Iterator[Finding]:
    if not has_workers:
        yield Finding(
            "queue-without-workers",
            f"Task queue {name} has no active workers; {backlog} tasks are waiting.",
            "Start workers: make up, or orders worker all.",
        )
    elif oldest_seconds >= BACKLOG_AGE_SECONDS:
        yield Finding(
            "queue-backlog",
            f"{backlog} tasks are waiting on task queue {name}, the oldest for {oldest_seconds:.0f} s.",
            "Start more workers for it, or reduce the rate of new orders.",
        )


async def _check_versions(
    client: Client, settings: Settings, heartbeats: list[WorkerHeartbeat]
) -> list[Finding]:
    live = [each.deployment_version for each in heartbeats if task_queues.is_fresh(each)]
    deployment = settings.worker_deployment_name
    ours = sorted({version.build_id for version in live if version.deployment_name == deployment})
    current = await _current_build(client, settings) if ours else None
    unserved = await _unserved_queues(client, settings, current) if current else []
    has_unversioned = any(not version.build_id for version in live)
    return list(
        version_findings(
            deployment,
            builds=sorted({version.build_id for version in live} - {""}),
            # Without a current version, workers without a version receive the orders.
            idle_builds=[] if has_unversioned or current else ours,
            current_build=current,
            unserved_queues=unserved,
        )
    )


def version_findings(
    deployment: str,
    *,
    builds: list[str],
    idle_builds: list[str],
    current_build: str | None,
    unserved_queues: list[str],
) -> Iterator[Finding]:
    """`builds` are those of all live workers; `unserved_queues` lack workers of the current build."""
    set_current = f"temporal worker deployment set-current-version --deployment-name {deployment}"
    if idle_builds:
        yield Finding(
            "no-current-version",
            f"Workers of version {' and '.join(idle_builds)} are running, but no version is current: they "
            "receive no new orders.",
            f"Make one current: {set_current} --build-id {idle_builds[-1]}.",
        )
    if unserved_queues:
        yield Finding(
            "current-version-incomplete",
            f"No worker of the current version {current_build} has served {' and '.join(unserved_queues)}: "
            "its orders wait.",
            f"Start those workers, or make another version current: {set_current} --build-id ID.",
        )
    if len(builds) > 1:
        yield Finding(
            "several-versions",
            f"Workers of several versions are running: {', '.join(builds)}.",
            "This is expected during a deployment. Otherwise stop the old workers.",
            "notice",
        )


async def _current_build(client: Client, settings: Settings) -> str | None:
    """Return the build that receives new orders; None if workers without a version do."""
    request = api.DescribeWorkerDeploymentRequest(
        namespace=client.namespace, deployment_name=settings.worker_deployment_name
    )
    try:
        response = await client.workflow_service.describe_worker_deployment(
            request, retry=False, timeout=task_queues.RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    routing = response.worker_deployment_info.routing_config
    return routing.current_deployment_version.build_id or None


async def _unserved_queues(client: Client, settings: Settings, build_id: str) -> list[str]:
    version = WorkerDeploymentVersion(deployment_name=settings.worker_deployment_name, build_id=build_id)
    response = await client.workflow_service.describe_worker_deployment_version(
        api.DescribeWorkerDeploymentVersionRequest(namespace=client.namespace, deployment_version=version),
        retry=False,
        timeout=task_queues.RPC_TIMEOUT,
    )
    served = {queue.name for queue in response.version_task_queues}
    return sorted({settings.order_task_queue, settings.shipping_task_queue} - served)
