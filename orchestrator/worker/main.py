"""A worker process: connects, polls its task queues and runs the background tasks until it is stopped."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import structlog
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.worker import Worker

from db.database import Database
from db.domain import TemporalNamespace
from db.maintenance.reconciliation import register
from db.orders import OrderRepository
from orchestrator.background import keep_running
from orchestrator.errors import TemporalReplaced
from orchestrator.gateways.fault_injection import FaultInjector, named_profile
from orchestrator.gateways.registry import not_simulated, open_gateways
from orchestrator.messages.ids import compensation_task_queue
from orchestrator.observability import logs
from orchestrator.observability.tracing import Tracing
from orchestrator.settings import Settings
from orchestrator.startup import refuse
from orchestrator.startup.configuration import configuration_findings, gateway_findings
from orchestrator.startup.servers import (
    wait_for,
    wait_for_api_keys,
    wait_for_database,
    wait_for_task_queues,
    wait_for_temporal,
)
from orchestrator.temporal.client import connect, temporal_namespace
from orchestrator.worker import WorkerKind
from orchestrator.worker.event_retention import EventRetention
from orchestrator.worker.factory import (
    ActivitySet,
    compensation_worker,
    deployment_config,
    order_worker,
    shipping_worker,
)
from orchestrator.worker.fault_profile_polling import load_fault_profile, poll_fault_profile
from orchestrator.worker.liveness_file import keep_touching
from orchestrator.worker.metrics import WorkerMetrics, measured_runtime
from orchestrator.worker.reconciler import Reconciler
from orchestrator.worker.rejected_values import RejectedValues

STOP_SECONDS = 2.3
"""Time for a stopping worker to finish its work. With CANCEL_SECONDS, the process exits within three
seconds."""

CANCEL_SECONDS = 0.2
CLUSTER_CHECK_SECONDS = 5.0

BackgroundTask = Callable[[], Awaitable[None]]

log = structlog.get_logger()


async def run(settings: Settings, kind: WorkerKind, name: str | None = None) -> None:
    """Serve until SIGINT or SIGTERM, and return within STOP_SECONDS + CANCEL_SECONDS of the first one.

    Waits for PostgreSQL and Temporal while they are unavailable.
    """
    name = name or f"{kind}-worker-{os.getpid()}@{socket.gethostname()}"
    logs.configure(settings, name)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(_set_up_and_serve(settings, kind, name, stopping))
    others: list[asyncio.Task[Any]] = [asyncio.create_task(stopping.wait())]
    if settings.liveness_file is not None:
        # A worker that waits for a server is alive.
        touch = partial(keep_touching, settings.liveness_file)
        others.append(asyncio.create_task(keep_running("liveness file", touch, lambda: None)))
    await asyncio.wait([serving, others[0]], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        log.info("worker stopping")
        await asyncio.wait([serving], timeout=STOP_SECONDS)
    for task in others:
        task.cancel()
    if serving.done():
        serving.result()
        log.info("worker stopped")
    else:
        serving.cancel()
        await asyncio.wait([serving], timeout=CANCEL_SECONDS)
        log.warning("worker stopped with unfinished tasks; Temporal retries them after their timeouts")


async def _set_up_and_serve(settings: Settings, kind: WorkerKind, name: str, stopping: asyncio.Event) -> None:
    refuse(configuration_findings(settings))
    refuse(gateway_findings(settings))
    # The metrics have no authentication.
    await wait_for_api_keys(settings, "the worker's metrics")
    tracing = Tracing.of(settings, f"{kind}-worker", name)
    with measured_runtime(settings, name) as runtime:
        try:
            await _serve(settings, kind, name, stopping, runtime, tracing)
        except asyncio.CancelledError:
            # STOP_SECONDS are over: no time left to export the last spans.
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
    """Run workers and background tasks until `stopping` is set, then shut them down."""
    order_queues = (settings.order_task_queue, compensation_task_queue(settings.order_task_queue))
    queues = {
        WorkerKind.ORDER: order_queues,
        WorkerKind.SHIPPING: (settings.shipping_task_queue,),
        WorkerKind.ALL: (*order_queues, settings.shipping_task_queue),
    }
    client = await _connect(settings, name, runtime, tracing)
    async with (
        Database(
            settings.order_database_url,
            application_name=name,
            prepares_statements=settings.database_prepared_statements,
        ) as database,
        open_gateways(settings, database) as gateways,
    ):
        database_id = await wait_for_task_queues(client, database, queues[kind])
        temporal = await wait_for("Temporal", lambda: temporal_namespace(client))
        await wait_for("PostgreSQL", lambda: register(database, temporal))
        metrics = WorkerMetrics(runtime.metric_meter)
        injector = None if not_simulated(settings) else FaultInjector(named_profile("none"))
        repository = OrderRepository(database, name, temporal)
        activities = ActivitySet.create(repository, injector, gateways, metrics, tracing)
        background: dict[str, BackgroundTask] = {"memory gauge": metrics.update_memory}
        if injector is not None:
            background["fault profile"] = partial(poll_fault_profile, database, injector)
        options: dict[str, Any] = {
            "deployment_config": deployment_config(settings),
            "interceptors": [RejectedValues(metrics)],
        }
        workers = []
        if kind is not WorkerKind.SHIPPING:
            if settings.events_keep_days is not None:
                retention = EventRetention(database, timedelta(days=settings.events_keep_days))
                background["event retention"] = retention.run
            background["reconciler"] = Reconciler(
                database,
                client,
                temporal,
                # A worker of another machine may have the same name.
                leader=f"{name}-{uuid4().hex[:8]}",
                task_queue=settings.order_task_queue,
                database_id=database_id,
                max_orphans=settings.reconciler_max_orphans,
                metrics=metrics,
            ).run
            workers.append(order_worker(client, settings.order_task_queue, activities, **options))
            workers.append(compensation_worker(client, settings.order_task_queue, activities, **options))
        if kind is not WorkerKind.ORDER:
            workers.append(shipping_worker(client, settings.shipping_task_queue, activities, **options))
        if injector is not None:
            await load_fault_profile(database, injector)
        log.info("worker started", kind=kind, version=settings.worker_build_id)
        tasks = [
            keep_running(name, work, metrics.background_task_failed) for name, work in background.items()
        ]
        await _run_until_stopped(workers, tasks, _watch_cluster(client, temporal), stopping)


async def _run_until_stopped(
    workers: list[Worker],
    background: list[Coroutine[Any, Any, None]],
    cluster_watch: Coroutine[Any, Any, None],
    stopping: asyncio.Event,
) -> None:
    """Run everything until `stopping` is set, or a worker or the watch ends. Raises its error."""
    running = [asyncio.create_task(each) for each in (*(worker.run() for worker in workers), cluster_watch)]
    tasks = [asyncio.create_task(each) for each in background]
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait([*running, stopped], return_when=asyncio.FIRST_COMPLETED)
    *_, watching = running
    for task in (watching, stopped, *tasks):
        task.cancel()
    await asyncio.gather(*(worker.shutdown() for worker in workers))
    with suppress(asyncio.CancelledError):
        await watching
    await asyncio.gather(*running[:-1])


async def _watch_cluster(client: Client, temporal: TemporalNamespace) -> None:
    """Raise TemporalReplaced when another cluster responds at the server's address, because the start-up
    checks of this worker have not checked it."""
    while True:
        await asyncio.sleep(CLUSTER_CHECK_SECONDS)
        try:
            current = await temporal_namespace(client)
        except Exception as error:
            log.warning("the Temporal cluster cannot be checked", error=repr(error))
            continue
        if current != temporal:
            raise TemporalReplaced(
                f"The Temporal server is cluster {current.cluster_id}; it was {temporal.cluster_id}."
            )


async def _connect(settings: Settings, identity: str, runtime: Runtime, tracing: Tracing | None) -> Client:
    """Wait until both servers are available, check them, and connect to Temporal. Raises StartRefused."""
    interceptors = [tracing.interceptor] if tracing else []
    client, _ = await asyncio.gather(
        wait_for(
            f"Temporal at {settings.temporal_target}",
            lambda: connect(settings, identity=identity, runtime=runtime, interceptors=interceptors),
        ),
        wait_for_database(settings),
    )
    await wait_for_temporal(client)
    return client
