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
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.worker.v1 import WorkerHeartbeat
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentVersionRequest,
    GetSystemInfoRequest,
    ListWorkersRequest,
)
from temporalio.client import Client
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from db.maintenance import diagnostics
from orchestrator.api.health import POLL_FRESH, is_fresh, is_served
from orchestrator.embedded import Stack, components, postgres
from orchestrator.embedded.component import ListeningPort
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.migrations import MIGRATIONS
from orchestrator.embedded.process_table import listening_process
from orchestrator.errors import DatabaseError, SettingsError, TemporalUnavailable
from orchestrator.operations.doctor.findings import COMPENSATION_ATTEMPTS, RESTART_WINDOW_MINUTES
from orchestrator.operations.doctor.observations import (
    DatabaseState,
    DiskSpace,
    Observations,
    PortState,
    ProcessState,
    QueueState,
    Session,
    StackState,
    TemporalState,
)
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect

COMPONENT_SECONDS = 3.0
"""Timeout for all calls to one component."""

RPC_TIMEOUT = timedelta(seconds=1)
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
    ports, api_responds, database, temporal = await asyncio.gather(
        asyncio.to_thread(_ports, settings, is_up),
        _api_responds(settings) if is_up or stack_state is None else _none(),
        _database(settings, clock) if is_up or not settings.uses_embedded_postgres else _none(),
        _temporal(settings, clock) if is_up or not settings.uses_embedded_temporal else _none(),
    )
    return Observations(
        home=settings.home,
        disk=_disk(settings),
        stack=stack_state,
        ports=ports,
        api_responds=api_responds,
        database=database,
        temporal=temporal,
        has_embedded_postgres=settings.uses_embedded_postgres,
        has_embedded_temporal=settings.uses_embedded_temporal,
    )


async def _none() -> None:
    return None


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


async def _api_responds(settings: Settings) -> bool:
    """True if the API sends any HTTP response: its dependencies are checked directly."""
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


# --- PostgreSQL -------------------------------------------------------------------------------------


async def _database(settings: Settings, clock: Clock) -> DatabaseState:
    try:
        async with asyncio.timeout(COMPONENT_SECONDS):
            sent_at, began = clock(), time.perf_counter()
            look = await diagnostics.look(settings.order_database_url, undo_tries=COMPENSATION_ATTEMPTS)
            received_at = sent_at + time.perf_counter() - began
    except (DatabaseError, TimeoutError) as error:
        return DatabaseState(error=_first_line(error.__cause__) or "no response in time")
    except psycopg.Error as error:
        return DatabaseState(error=_first_line(error))
    overdue = look.overdue or {"orders": 0, "examples": None}
    ours = {path.name.split("_")[0]: path.name for path in MIGRATIONS.glob("*.sql")}
    database_clock = look.clock.timestamp()
    return DatabaseState(
        version=look.server["version"],
        version_text=look.server["version_text"],
        response_ms=look.answer_ms,
        # The database read its clock between the two moments; only the time outside of them is an offset.
        clock_ahead_seconds=max(database_clock - received_at, 0.0) + min(database_clock - sent_at, 0.0),
        connections=look.server["connections"],
        hidden_connections=look.server["hidden"],
        max_connections=look.server["max_connections"],
        sessions=tuple(Session(**session) for session in look.sessions),
        pending_migrations=tuple(
            name for version, name in sorted(ours.items()) if version not in look.migrations
        ),
        unknown_migrations=tuple(version for version in look.migrations if version not in ours),
        partition_days_ahead=look.days_ahead,
        overdue=overdue["orders"],
        overdue_examples=tuple(overdue["examples"] or ()),
        repeated_compensations=tuple(look.stuck_undoing),
        acceptance_gap_seconds=look.acceptance_gap_seconds,
    )


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if error is not None and str(error).strip() else ""


# --- Temporal ---------------------------------------------------------------------------------------


async def _temporal(settings: Settings, clock: Clock) -> TemporalState:
    single_attempt = RetryConfig(max_retries=1, max_elapsed_time_millis=1_000)
    try:
        async with asyncio.timeout(COMPONENT_SECONDS):
            client = await connect(settings, identity="doctor", retry_config=single_attempt)
            return await _temporal_state(client, settings, clock)
    except TimeoutError:
        return TemporalState(error="no response in time")
    except SettingsError as error:
        return TemporalState(error=_first_line(error))
    except (TemporalUnavailable, RPCError, RuntimeError) as error:
        return TemporalState(error=_first_line(error.__cause__ or error))


async def _temporal_state(client: Client, settings: Settings, clock: Clock) -> TemporalState:
    system = await client.workflow_service.get_system_info(
        GetSystemInfoRequest(), retry=False, timeout=RPC_TIMEOUT
    )
    heartbeats = await _heartbeats(client)
    queues, newest_poll = [], 0.0
    for name in (settings.order_task_queue, settings.shipping_task_queue):
        by_type = [
            await _describe_queue(client, name, queue_type)
            for queue_type in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)
        ]
        polls = [poller.last_access_time.ToDatetime(UTC) for poller in by_type[0].pollers]
        queues.append(
            QueueState(
                name,
                is_served([heartbeat for heartbeat in heartbeats if heartbeat.task_queue == name], polls),
                sum(described.stats.approximate_backlog_count for described in by_type),
                max(
                    described.stats.approximate_backlog_age.ToTimedelta().total_seconds()
                    for described in by_type
                ),
            )
        )
        newest_poll = max([newest_poll, *(poll.timestamp() for poll in polls)])
    versions = [heartbeat.deployment_version for heartbeat in heartbeats if is_fresh(heartbeat)]
    builds = {version.build_id for version in versions} - {""}
    ours = {
        version.build_id for version in versions if version.deployment_name == settings.worker_deployment_name
    }
    current = await _current_build(client, settings) if ours else None
    all_versioned = all(version.build_id for version in versions)
    return TemporalState(
        version=system.server_version,
        queues=tuple(queues),
        deployment=settings.worker_deployment_name,
        builds=tuple(sorted(builds)),
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


async def _describe_queue(
    client: Client, name: str, queue_type: "TaskQueueType.ValueType"
) -> DescribeTaskQueueResponse:
    return await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=name),
            task_queue_type=queue_type,
            report_stats=True,
        ),
        retry=False,
        timeout=RPC_TIMEOUT,
    )


async def _heartbeats(client: Client) -> list[WorkerHeartbeat]:
    since = datetime.now(UTC) - POLL_FRESH
    try:
        response = await client.workflow_service.list_workers(
            ListWorkersRequest(
                namespace=client.namespace,
                page_size=1_000,
                query=f"HeartbeatTime > '{since.isoformat(timespec='seconds')}'",
            ),
            retry=False,
            timeout=RPC_TIMEOUT,
        )
    except RPCError:
        # The server keeps no heartbeats; its workers are known by their polls.
        return []
    return [worker.worker_heartbeat for worker in response.workers_info]
