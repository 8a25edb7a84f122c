"""A worker process: connects, polls its task queues and runs the background tasks until it is stopped."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.worker import Worker

from db.database import Database
from db.orders import OrderRepository
from orchestrator.errors import ServiceUnavailable
from orchestrator.gateways.fault_injection import FaultInjector, named_profile
from orchestrator.gateways.simulated import simulated_gateways
from orchestrator.observability import logs
from orchestrator.observability.tracing import Tracing
from orchestrator.settings import Settings
from orchestrator.startup import refuse
from orchestrator.startup.configuration import configuration_findings
from orchestrator.startup.findings import first_line
from orchestrator.startup.servers import (
    RETRY_SECONDS,
    wait_for_api_keys,
    wait_for_database,
    wait_for_temporal,
)
from orchestrator.temporal_client import connect
from orchestrator.worker import WorkerKind
from orchestrator.worker.event_retention import EventRetention
from orchestrator.worker.factory import ActivitySet, deployment_config, order_worker, shipping_worker
from orchestrator.worker.fault_profile_polling import load_fault_profile, poll_fault_profile
from orchestrator.worker.liveness_file import keep_touching
from orchestrator.worker.metrics import WorkerMetrics, measured_runtime
from orchestrator.worker.reconciler import Reconciler
from orchestrator.worker.rejected_values import RejectedValues

STOP_SECONDS = 2.3
"""How long a stopping worker may finish its work. With what follows it must end within three seconds."""

CANCEL_SECONDS = 0.2

BackgroundTask = Callable[[], Coroutine[Any, Any, None]]

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
    ending: list[asyncio.Task[Any]] = [asyncio.create_task(stopping.wait())]
    if settings.liveness_file is not None:
        # A worker that waits for a server is alive.
        ending.append(asyncio.create_task(keep_touching(settings.liveness_file)))
    await asyncio.wait([serving, *ending], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        stopping.set()
        log.info("worker stopping")
        await asyncio.wait([serving], timeout=STOP_SECONDS)
    for task in ending:
        if not task.cancel():
            task.result()
    if serving.done():
        serving.result()
        log.info("worker stopped")
    else:
        serving.cancel()
        await asyncio.wait([serving], timeout=CANCEL_SECONDS)
        log.warning("worker stopped with unfinished tasks; Temporal retries them after their timeouts")


async def _set_up_and_serve(settings: Settings, kind: WorkerKind, name: str, stopping: asyncio.Event) -> None:
    refuse(configuration_findings(settings))
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
    client = await _connect(settings, name, runtime, tracing)
    async with Database(
        settings.order_database_url,
        application_name=name,
        prepares_statements=settings.database_prepared_statements,
    ) as database:
        metrics = WorkerMetrics(runtime.metric_meter)
        injector = FaultInjector(named_profile("none"))
        activities = ActivitySet.create(
            OrderRepository(database, name), injector, simulated_gateways(database), metrics, tracing
        )
        background: dict[str, BackgroundTask] = {
            "memory gauge": metrics.update_memory,
            "fault profile": partial(poll_fault_profile, database, injector),
        }
        options: dict[str, Any] = {
            "deployment_config": deployment_config(settings),
            "interceptors": [RejectedValues(metrics)],
        }
        workers = []
        if kind is not WorkerKind.SHIPPING:
            if settings.events_keep_days is not None:
                retention = EventRetention(database, timedelta(days=settings.events_keep_days))
                background["event retention"] = retention.run
            background["reconciler"] = Reconciler(database, client, settings.order_task_queue, metrics).run
            workers.append(order_worker(client, settings.order_task_queue, activities, **options))
        if kind is not WorkerKind.ORDER:
            workers.append(shipping_worker(client, settings.shipping_task_queue, activities, **options))
        await load_fault_profile(database, injector)
        log.info("worker started", kind=kind, version=settings.worker_build_id)
        await _run_until_stopped(workers, background, stopping)


async def _run_until_stopped(
    workers: list[Worker], background: dict[str, BackgroundTask], stopping: asyncio.Event
) -> None:
    """Run everything until `stopping` is set or a part ends. Raises the error with which a part ended."""
    running = [asyncio.create_task(worker.run()) for worker in workers]
    tasks = [asyncio.create_task(work(), name=name) for name, work in background.items()]
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait([*running, *tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    # A worker without a background task would seem healthy: it ends, and its supervisor restarts it.
    failed = [task for task in tasks if task.done()]
    for task in failed:
        log.error("worker stops because a background task has failed", task=task.get_name())
    stopped.cancel()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*(worker.shutdown() for worker in workers))
    await asyncio.gather(*running, *failed)


async def _connect(settings: Settings, identity: str, runtime: Runtime, tracing: Tracing | None) -> Client:
    """Wait until both servers are available, check them, and connect to Temporal. Raises StartRefused."""
    client, _ = await asyncio.gather(
        _connect_to_temporal(settings, identity, runtime, tracing), wait_for_database(settings)
    )
    await wait_for_temporal(client)
    return client


async def _connect_to_temporal(
    settings: Settings, identity: str, runtime: Runtime, tracing: Tracing | None
) -> Client:
    interceptors = [tracing.interceptor] if tracing else []
    while True:
        try:
            return await connect(settings, identity=identity, runtime=runtime, interceptors=interceptors)
        except ServiceUnavailable as error:
            reason = first_line(error.__cause__)
            log.warning("waiting for Temporal", address=settings.temporal_target, reason=reason)
            await asyncio.sleep(RETRY_SECONDS)
