"""Takes the readings: asks every part at the same time, and none of them for long. Nothing here raises."""

import asyncio
import http.client
import shutil
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.worker.v1 import WorkerHeartbeat
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    GetSystemInfoRequest,
    ListWorkersRequest,
)
from temporalio.client import Client
from temporalio.service import RetryConfig, RPCError

from db.maintenance import diagnostics as database_doctor
from orchestrator.api.health import POLL_FRESH, is_fresh, is_served
from orchestrator.embedded import Stack, components, postgres
from orchestrator.embedded.component import ListeningPort
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.migrations import MIGRATIONS
from orchestrator.errors import DatabaseUnavailable, SettingsError, TemporalUnavailable
from orchestrator.operations.doctor.findings import FLAPPING_MINUTES, UNDO_TRIES
from orchestrator.operations.doctor.readings import (
    DatabaseReading,
    DiskReading,
    PortReading,
    ProcessReading,
    QueueReading,
    Readings,
    StackReading,
    StatementReading,
    TemporalReading,
)
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect
from orchestrator.versions import Versions

PATIENCE_SECONDS = 3.0
"""How long one part may take to answer all its questions."""

RPC_TIMEOUT = timedelta(seconds=1)
CONNECT_SECONDS = 0.2


async def take(settings: Settings, now: Callable[[], float] = time.time) -> Readings:
    """One look at everything, in under five seconds whatever is away. `now` is this machine's clock, by which
    the others are judged, in seconds since the epoch."""
    stack = Stack(settings)
    settings = stack.running_settings()
    stack_reading = await asyncio.to_thread(_stack, stack, settings)
    is_up = stack_reading is not None and stack_reading.is_up
    ports, api_answers, database, temporal = await asyncio.gather(
        asyncio.to_thread(_ports, settings, is_up),
        asyncio.to_thread(_api_answers, settings) if is_up or stack_reading is None else _nothing(),
        _database(settings, now) if is_up or not settings.uses_embedded_postgres else _nothing(),
        _temporal(settings, now) if is_up or not settings.uses_embedded_temporal else _nothing(),
    )
    return Readings(
        at=datetime.now(UTC),
        home=settings.home,
        disk=_disk(settings.home),
        stack=stack_reading,
        ports=ports,
        api_answers=api_answers,
        database=database,
        temporal=temporal,
        is_embedded={
            "database": settings.uses_embedded_postgres,
            "temporal": settings.uses_embedded_temporal,
        },
    )


async def _nothing() -> None:
    return None


# --- This machine -----------------------------------------------------------------------------------


def _stack(stack: Stack, settings: Settings) -> StackReading | None:
    layout = Layout.of(settings)
    is_external = not settings.uses_embedded_postgres and not settings.uses_embedded_temporal
    if is_external and not stack.is_up() and not stack.has_died():
        return None
    since = datetime.now(UTC) - timedelta(minutes=FLAPPING_MINUTES)
    if stack.is_up():
        processes = tuple(
            ProcessReading(
                process.name,
                process.runs,
                process.state,
                sum(at > since for at in stack.restarted_at(process.name)),
            )
            for process in stack.processes()
        )
        return StackReading(True, processes=processes)
    return StackReading(False, has_died=stack.has_died(), leftovers=_leftovers(layout))


def _leftovers(layout: Layout) -> tuple[str, ...]:
    files = (layout.supervisor_socket, layout.supervisor_pid, postgres.socket_path(layout))
    found = [f"the file {file}" for file in files if file.exists() or file.is_symlink()]
    found += [f"process {server.pid} (postgres)" for server in postgres.servers_on(layout.postgres_data)[:1]]
    return tuple(found)


def _ports(settings: Settings, is_up: bool) -> tuple[PortReading, ...]:
    """Whose a port is matters, and is looked up, only where it should be free."""
    return tuple(
        PortReading(
            port.number,
            port.use,
            port.setting,
            is_listening := _listens(port),
            _listener(port.number) if is_listening and not is_up else "",
        )
        for component in components.components(settings)
        for port in component.ports
    )


def _listens(port: ListeningPort) -> bool:
    # Connecting to every address of a machine is connecting to its own.
    try:
        with socket.create_connection((port.address, port.number), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _listener(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not address or connection.pid is None:
                continue
            if address.port == port:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        # Another user's; who it is stays unknown.
        return ""
    return ""


def _api_answers(settings: Settings) -> bool:
    """Whether it answers at all; what it finds about the others is asked of them."""
    place = urlsplit(settings.api_url)
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname or "127.0.0.1", place.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", "/health")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _disk(home: Path) -> DiskReading:
    place = next(each for each in (home, *home.parents) if each.exists())
    usage = shutil.disk_usage(place)
    return DiskReading(place, usage.free, usage.total)


# --- PostgreSQL -------------------------------------------------------------------------------------


async def _database(settings: Settings, now: Callable[[], float]) -> DatabaseReading:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            asked_at, began = now(), time.perf_counter()
            look = await database_doctor.look(settings.order_database_url, undo_tries=UNDO_TRIES)
            ended_at = asked_at + time.perf_counter() - began
    except (DatabaseUnavailable, TimeoutError) as error:
        return DatabaseReading(why_away=_first_line(error.__cause__) or "no answer in time")
    except psycopg.Error as error:
        # It is there, and this user may not ask it.
        return DatabaseReading(why_away=_first_line(error))
    overdue = look.overdue or {"orders": 0, "examples": None}
    ours = {path.name.split("_")[0]: path.name for path in MIGRATIONS.glob("*.sql")}
    return DatabaseReading(
        version=look.server["version"],
        version_text=look.server["version_text"],
        answer_ms=look.answer_ms,
        clock_ahead_seconds=_outside_of(look.clock.timestamp(), asked_at, ended_at),
        connections=look.server["connections"],
        hidden_connections=look.server["hidden"],
        max_connections=look.server["max_connections"],
        statements=tuple(StatementReading(**session) for session in look.sessions),
        pending_migrations=tuple(
            name for version, name in sorted(ours.items()) if version not in look.migrations
        ),
        unknown_migrations=tuple(version for version in look.migrations if version not in ours),
        days_ahead=look.days_ahead,
        overdue=overdue["orders"],
        overdue_examples=tuple(overdue["examples"] or ()),
        stuck_undoing=tuple(look.stuck_undoing),
        acceptance_gap_seconds=look.acceptance_gap_seconds,
    )


def _outside_of(time_there: float, from_here: float, to_here: float) -> float:
    """How far a clock that was read between two moments of ours lies outside of them; 0 within."""
    return max(time_there - to_here, 0.0) + min(time_there - from_here, 0.0)


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if error is not None and str(error).strip() else ""


# --- Temporal ---------------------------------------------------------------------------------------


async def _temporal(settings: Settings, now: Callable[[], float]) -> TemporalReading:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await _asked_of(await _connected(settings), settings, now)
    except TimeoutError:
        return TemporalReading(why_away="no answer in time")
    except SettingsError as error:
        return TemporalReading(why_away=_first_line(error))
    except (TemporalUnavailable, RPCError, RuntimeError) as error:
        return TemporalReading(why_away=_first_line(error.__cause__ or error))


async def _connected(settings: Settings) -> Client:
    once = RetryConfig(max_retries=1, max_elapsed_time_millis=1_000)
    return await connect(settings, identity="doctor", retry_config=once)


async def _asked_of(client: Client, settings: Settings, now: Callable[[], float]) -> TemporalReading:
    system = await client.workflow_service.get_system_info(
        GetSystemInfoRequest(), retry=False, timeout=RPC_TIMEOUT
    )
    heartbeats = await _heartbeats(client)
    queues, newest_poll = [], 0.0
    for name in (settings.order_task_queue, settings.shipping_task_queue):
        kinds = [
            await _described(client, name, kind)
            for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)
        ]
        polled = [poller.last_access_time.ToDatetime(UTC) for poller in kinds[0].pollers]
        own = [heartbeat for heartbeat in heartbeats if heartbeat.task_queue == name]
        queues.append(
            QueueReading(
                name,
                is_served(own, polled),
                sum(kind.stats.approximate_backlog_count for kind in kinds),
                max(kind.stats.approximate_backlog_age.ToTimedelta().total_seconds() for kind in kinds),
            )
        )
        newest_poll = max([newest_poll, *(at.timestamp() for at in polled)])
    live = [heartbeat for heartbeat in heartbeats if is_fresh(heartbeat)]
    builds = {heartbeat.deployment_version.build_id for heartbeat in live} - {""}
    return TemporalReading(
        version=system.server_version,
        queues=tuple(queues),
        builds=tuple(sorted(builds)),
        idle_builds=await _idle_builds(client, settings, live),
        # A poll was made before we asked, so a later one was dated by a clock ahead of ours.
        clock_ahead_seconds=max(newest_poll - now(), 0.0),
    )


async def _idle_builds(client: Client, settings: Settings, live: list[WorkerHeartbeat]) -> tuple[str, ...]:
    versions = [heartbeat.deployment_version for heartbeat in live]
    ours = {
        version.build_id for version in versions if version.deployment_name == settings.worker_deployment_name
    }
    if not ours or not all(version.build_id for version in versions):
        return ()
    return () if await Versions(settings, client).current() else tuple(sorted(ours))


async def _described(client: Client, name: str, kind: "TaskQueueType.ValueType") -> DescribeTaskQueueResponse:
    return await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=name),
            task_queue_type=kind,
            report_stats=True,
        ),
        retry=False,
        timeout=RPC_TIMEOUT,
    )


async def _heartbeats(client: Client) -> list[WorkerHeartbeat]:
    since = datetime.now(UTC) - POLL_FRESH
    try:
        answer = await client.workflow_service.list_workers(
            ListWorkersRequest(
                namespace=client.namespace,
                page_size=1_000,
                query=f"HeartbeatTime > '{since.isoformat(timespec='seconds')}'",
            ),
            retry=False,
            timeout=RPC_TIMEOUT,
        )
    except RPCError:
        # A server that keeps none; its workers are known by their polls.
        return []
    return [worker.worker_heartbeat for worker in answer.workers_info]
