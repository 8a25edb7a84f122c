"""Collect the facts for a diagnosis, from all components in parallel and with short timeouts.

Nothing here raises: an unavailable component is a fact.
"""

import asyncio
import shutil
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
from temporalio.api.deployment.v1 import WorkerDeploymentVersion
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentVersionRequest,
    GetSystemInfoRequest,
)
from temporalio.client import Client
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from db.maintenance.diagnostics import DatabaseState, database_state
from orchestrator.embedded import Stack, components, postgres
from orchestrator.embedded.component import ListeningPort
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.process_table import listening_process
from orchestrator.errors import DatabaseError, SettingsError, TemporalUnavailable
from orchestrator.operations.doctor.findings import COMPENSATION_ATTEMPTS, RESTART_WINDOW_MINUTES
from orchestrator.operations.doctor.observations import (
    DiskSpace,
    Observations,
    PortState,
    ProcessState,
    QueueState,
    StackState,
    TemporalState,
)
from orchestrator.settings import Settings
from orchestrator.task_queues import (
    RPC_TIMEOUT,
    describe_task_queue,
    is_fresh,
    is_served,
    poll_times,
    worker_heartbeats,
)
from orchestrator.temporal_client import connect

COMPONENT_SECONDS = 3.0
"""Timeout for all calls to one component."""

CONNECT_SECONDS = 0.2

Clock = Callable[[], float]


async def observe(settings: Settings, clock: Clock = time.time) -> Observations:
    """Return the present state of every component, within 5 s whatever is unavailable.

    `clock` returns this machine's time, in seconds since the epoch; other clocks are compared with it.
    """
    stack = Stack(settings)
    settings = stack.running_settings()
    stack_state = await asyncio.to_thread(_stack, stack, settings)
    is_up = stack_state is not None and stack_state.is_up
    ports, api_responds, (database, database_error), (temporal, temporal_error) = await asyncio.gather(
        asyncio.to_thread(_ports, settings, is_up),
        _api_responds(settings, is_up or stack_state is None),
        _database(settings, clock) if is_up or not settings.uses_embedded_postgres else _not_observed(),
        _temporal(settings, clock) if is_up or not settings.uses_embedded_temporal else _not_observed(),
    )
    return Observations(
        home=settings.home,
        disk=_disk(settings),
        stack=stack_state,
        ports=ports,
        api_responds=api_responds,
        database=database,
        database_error=database_error,
        temporal=temporal,
        temporal_error=temporal_error,
        has_embedded_postgres=settings.uses_embedded_postgres,
        has_embedded_temporal=settings.uses_embedded_temporal,
    )


async def _not_observed() -> tuple[None, None]:
    return None, None


# --- This machine -----------------------------------------------------------------------------------


def _stack(stack: Stack, settings: Settings) -> StackState | None:
    if stack.is_up():
        since = datetime.now(UTC) - timedelta(minutes=RESTART_WINDOW_MINUTES)
        processes = (
            ProcessState(
                process.name,
                process.runs,
                process.state,
                sum(at > since for at in stack.restarted_at(process.name)),
            )
            for process in stack.processes()
        )
        return StackState(is_up=True, processes=tuple(processes))
    if not (settings.uses_embedded_postgres or settings.uses_embedded_temporal or stack.has_died()):
        return None
    return StackState(is_up=False, has_died=stack.has_died(), orphans=_orphans(Layout.of(settings)))


def _orphans(layout: Layout) -> tuple[str, ...]:
    files = (layout.supervisor_socket, layout.supervisor_pid, postgres.socket_path(layout))
    found = [f"the file {file}" for file in files if file.exists() or file.is_symlink()]
    found += [f"process {server.pid} (postgres)" for server in postgres.servers_on(layout.postgres_data)[:1]]
    return tuple(found)


def _ports(settings: Settings, is_up: bool) -> tuple[PortState, ...]:
    return tuple(
        PortState(
            port.number,
            port.use,
            port.setting,
            is_listening := _is_listening(port),
            _used_by(port) if is_listening and not is_up else "",
        )
        for component in components.components(settings)
        for port in component.ports
    )


def _is_listening(port: ListeningPort) -> bool:
    try:
        with socket.create_connection((port.address, port.number), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _used_by(port: ListeningPort) -> str:
    process = listening_process(port.number)
    return f" by {process}" if process else ""


async def _api_responds(settings: Settings, is_expected: bool) -> bool | None:
    """Return whether the API sends any HTTP response; None if it is not expected to run."""
    if not is_expected:
        return None
    try:
        async with httpx.AsyncClient(timeout=COMPONENT_SECONDS, trust_env=False) as client:
            await client.get(f"{settings.api_url}/health")
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def _disk(settings: Settings) -> DiskSpace:
    path = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    usage = shutil.disk_usage(path)
    return DiskSpace(path, usage.free, usage.total)


# --- Servers ----------------------------------------------------------------------------------------


async def _database(settings: Settings, clock: Clock) -> tuple[DatabaseState | None, str | None]:
    """Return the state of the database, or why it is unavailable."""
    try:
        async with asyncio.timeout(COMPONENT_SECONDS):
            url = settings.order_database_url
            return await database_state(url, compensation_attempts=COMPENSATION_ATTEMPTS, clock=clock), None
    except (DatabaseError, TimeoutError) as error:
        return None, _first_line(error.__cause__) or "no response in time"
    except psycopg.Error as error:
        return None, _first_line(error)


async def _temporal(settings: Settings, clock: Clock) -> tuple[TemporalState | None, str | None]:
    """Return the state of Temporal, or why it is unavailable."""
    single_attempt = RetryConfig(max_retries=1, max_elapsed_time_millis=1_000)
    try:
        async with asyncio.timeout(COMPONENT_SECONDS):
            client = await connect(settings, identity="doctor", retry_config=single_attempt)
            return await _temporal_state(client, settings, clock), None
    except TimeoutError:
        return None, "no response in time"
    except (SettingsError, TemporalUnavailable, RPCError, RuntimeError) as error:
        return None, _first_line(error if isinstance(error, SettingsError) else error.__cause__ or error)


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if error is not None and str(error).strip() else ""


async def _temporal_state(client: Client, settings: Settings, clock: Clock) -> TemporalState:
    system = await client.workflow_service.get_system_info(
        GetSystemInfoRequest(), retry=False, timeout=RPC_TIMEOUT
    )
    heartbeats = await worker_heartbeats(client)
    queues, polls = [], []
    for name in (settings.order_task_queue, settings.shipping_task_queue):
        workflows = await describe_task_queue(client, name)
        stats = (workflows.stats, (await describe_task_queue(client, name, activities=True)).stats)
        times = list(poll_times(workflows).values())
        queues.append(
            QueueState(
                name,
                is_served(name, heartbeats, times),
                sum(tasks.approximate_backlog_count for tasks in stats),
                max(tasks.approximate_backlog_age.ToTimedelta().total_seconds() for tasks in stats),
            )
        )
        polls += times
    versions = [heartbeat.deployment_version for heartbeat in heartbeats if is_fresh(heartbeat)]
    deployment = settings.worker_deployment_name
    ours = {version.build_id for version in versions if version.deployment_name == deployment}
    current = await _current_build(client, settings) if ours else None
    all_versioned = all(version.build_id for version in versions)
    newest_poll = max((poll.timestamp() for poll in polls), default=0.0)
    return TemporalState(
        version=system.server_version,
        queues=tuple(queues),
        deployment=deployment,
        builds=tuple(sorted({version.build_id for version in versions} - {""})),
        idle_builds=tuple(sorted(ours)) if all_versioned and not current else (),
        current_build=current,
        current_build_lacks=await _unserved_queues(client, settings, current) if current else (),
        # Each poll began before this moment: a later time comes from a clock that is ahead of ours.
        clock_ahead_seconds=max(newest_poll - clock(), 0.0),
    )


async def _current_build(client: Client, settings: Settings) -> str | None:
    """Return the build that receives new orders; None if workers without a version do."""
    try:
        response = await client.workflow_service.describe_worker_deployment(
            DescribeWorkerDeploymentRequest(
                namespace=client.namespace, deployment_name=settings.worker_deployment_name
            ),
            retry=False,
            timeout=RPC_TIMEOUT,
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    routing = response.worker_deployment_info.routing_config
    return routing.current_deployment_version.build_id or None


async def _unserved_queues(client: Client, settings: Settings, build_id: str) -> tuple[str, ...]:
    version = WorkerDeploymentVersion(deployment_name=settings.worker_deployment_name, build_id=build_id)
    response = await client.workflow_service.describe_worker_deployment_version(
        DescribeWorkerDeploymentVersionRequest(namespace=client.namespace, deployment_version=version),
        retry=False,
        timeout=RPC_TIMEOUT,
    )
    served = {queue.name for queue in response.version_task_queues}
    return tuple(sorted({settings.order_task_queue, settings.shipping_task_queue} - served))
