"""The application: its parts, its routes, its lifetime."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from temporalio.service import RetryConfig

from db.database import Database
from orchestrator.api import problem_details
from orchestrator.api.admission import Admission
from orchestrator.api.auth import Access, KeyRing
from orchestrator.api.context import Context
from orchestrator.api.health import Health
from orchestrator.api.metrics import Metrics, RequestMetrics
from orchestrator.api.middleware.body_limit import BodyLimit
from orchestrator.api.middleware.security_headers import SecurityHeaders
from orchestrator.api.order_service import Lifecycle
from orchestrator.api.outcome_notifier import OutcomeNotifier
from orchestrator.api.report_limiter import CONNECTIONS, ReportLimiter
from orchestrator.api.routes import operations, orders, payload_codec, temporal_ui_login
from orchestrator.api.routes.temporal_ui_login import UiKeys
from orchestrator.observability.tracing import UNTRACED_REQUESTS, Tracing
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect

_DESCRIPTION = """Orders from start to outcome within their limit. Every error is a problem document
(`application/problem+json`, RFC 9457)."""

_QUICKLY = RetryConfig(max_interval_millis=300, max_elapsed_time_millis=900)
"""A caller is told within 2 s that Temporal is away; the SDK would try for 10 s."""


def create_app(settings: Settings) -> FastAPI:
    """The API as an ASGI application. It starts whether or not PostgreSQL and Temporal are there."""

    tracing = Tracing.of(settings, "order-api", f"api@{socket.gethostname()}")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        client = await connect(
            settings,
            identity="api",
            lazy=True,
            retry_config=_QUICKLY,
            interceptors=[tracing.interceptor] if tracing else [],
        )
        async with (
            Database(settings.order_database_url, application_name="api") as database,
            Database(
                settings.order_database_url, max_size=CONNECTIONS, application_name="api-reports"
            ) as reports,
        ):
            watch = OutcomeNotifier(database)
            admission = Admission(settings, database)
            keys = KeyRing(settings, database)
            app.state.context = Context(
                settings=settings,
                database=database,
                reports=reports,
                places=ReportLimiter(),
                client=client,
                lifecycle=Lifecycle(settings, database, client, admission),
                watch=watch,
                admission=admission,
                keys=keys,
                ui_keys=UiKeys(settings.temporal_ui_origins),
                health=Health(settings, database, client),
                metrics=Metrics(database, admission),
            )
            background = [asyncio.create_task(each.run()) for each in (watch, admission, keys)]
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
        telemetry=tracing.of_requests if tracing else UNTRACED_REQUESTS,
    )
    app.include_router(orders.router)
    app.include_router(operations.router)
    app.include_router(payload_codec.router)
    app.include_router(temporal_ui_login.router)
    # The last one added sees a request first. A browser asks without its key whether it may ask at all.
    app.add_middleware(BodyLimit, larger={payload_codec.PREFIX: payload_codec.MAX_BODY_BYTES})
    app.add_middleware(Access)
    app.add_middleware(payload_codec.OnlyForTheUi, origins=settings.temporal_ui_origins)
    app.add_middleware(RequestMetrics)
    app.add_middleware(SecurityHeaders)
    problem_details.register(app)
    problem_details.document(app)
    return app
