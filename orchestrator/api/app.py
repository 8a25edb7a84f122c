"""The FastAPI application: services, routes and middleware."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from temporalio.service import RetryConfig

from db.database import Database
from orchestrator.api import problem_details
from orchestrator.api.admission import Admission
from orchestrator.api.context import Context
from orchestrator.api.health import Health
from orchestrator.api.metrics import Metrics
from orchestrator.api.middleware.auth import AuthMiddleware, KeyStore
from orchestrator.api.middleware.body_limit import BodyLimit
from orchestrator.api.middleware.normalization import RequestNormalization
from orchestrator.api.middleware.request_metrics import RequestMetrics
from orchestrator.api.middleware.security_headers import SecurityHeaders
from orchestrator.api.order_service import OrderService
from orchestrator.api.outcome_notifier import OutcomeNotifier
from orchestrator.api.report_limiter import CONNECTIONS, ReportLimiter
from orchestrator.api.routes import operations, orders, payload_codec, runs
from orchestrator.background import keep_running
from orchestrator.deadlines import SIMULATED_NEEDS
from orchestrator.gateways.registry import time_needs
from orchestrator.observability.tracing import UNTRACED_REQUESTS, Tracing
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect

_DESCRIPTION = """Starts orders, sends requests to them, and reports their status, latency and audit. Every
error is a problem document (`application/problem+json`, RFC 9457)."""

_SHORT_RETRIES = RetryConfig(max_interval_millis=300, max_elapsed_time_millis=900)
"""The SDK retries for 10 s by default; a client receives its 503 within 2 s."""


def create_app(settings: Settings) -> FastAPI:
    """Return the API as an ASGI application. It starts without PostgreSQL and Temporal."""

    needs = time_needs(settings)
    tracing = Tracing.of(settings, "order-api", f"api@{socket.gethostname()}")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        client = await connect(
            settings,
            identity="api",
            lazy=True,
            retry_config=_SHORT_RETRIES,
            interceptors=[tracing.interceptor] if tracing else [],
        )
        url = settings.order_database_url
        async with (
            Database(
                url, application_name="api", prepares_statements=settings.database_prepared_statements
            ) as database,
            Database(url, max_size=CONNECTIONS, application_name="api-reports") as reports,
        ):
            outcomes = OutcomeNotifier(database)
            admission = Admission(settings, database)
            keys = KeyStore(settings, database)
            app.state.context = Context(
                settings=settings,
                database=database,
                reports=reports,
                report_limiter=ReportLimiter(),
                client=client,
                order_service=OrderService(settings, database, client, admission),
                outcomes=outcomes,
                admission=admission,
                keys=keys,
                health=Health(settings, database, client),
                metrics=Metrics(database, admission),
                time_needs=None if needs == SIMULATED_NEEDS else needs,
            )
            background = _start_background_tasks(app.state.context)
            yield
            for task in background:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        if tracing is not None:
            tracing.close()

    app = FastAPI(
        title="Order system",
        version="1.0",
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=tracing.request_telemetry if tracing else UNTRACED_REQUESTS,
    )
    for routes in (orders, runs, operations, payload_codec):
        app.include_router(routes.router)
    # The last middleware added runs first. The codec's CORS preflight has no key, so CORS runs before
    # AuthMiddleware.
    app.add_middleware(BodyLimit, larger={payload_codec.PREFIX: payload_codec.MAX_BODY_BYTES})
    app.add_middleware(AuthMiddleware)
    app.add_middleware(payload_codec.CodecOrigins, origins=settings.temporal_ui_origins)
    app.add_middleware(RequestMetrics)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestNormalization)
    problem_details.register(app)
    problem_details.document(app)
    return app


def _start_background_tasks(context: Context) -> list[asyncio.Task[None]]:
    work = {
        "outcomes": context.outcomes.run,
        "admission": context.admission.run,
        "rejected starts": context.admission.record_rejections,
        "API keys": context.keys.run,
    }
    failed = context.metrics.background_task_failed
    return [asyncio.create_task(keep_running(name, run, failed)) for name, run in work.items()]
