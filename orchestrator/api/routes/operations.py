"""Routes for operators: latency, audit, fault profile, health and metrics."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from db import fault_profiles
from db.read_models import latency_report
from db.read_models.latency import LatencyFilter
from orchestrator.api import metrics
from orchestrator.api.context import Context, Ctx
from orchestrator.api.middleware.auth import caller_of
from orchestrator.api.problem_details import as_text, error_responses
from orchestrator.api.report_limiter import Report
from orchestrator.api.schemas import requests, responses
from orchestrator.api.timeouts import while_available, with_timeout
from orchestrator.audit import audit as run_audit
from orchestrator.audit.provider_records import copy_provider_records
from orchestrator.errors import FaultsUnavailable, RequestMalformed
from orchestrator.gateways.fault_injection import FaultProfile, named_profile
from orchestrator.gateways.registry import faults_unavailable, not_simulated

router = APIRouter(tags=["operations"], dependencies=[Depends(requests.require_single_values)])

MAX_DOWNLOAD_SECONDS = 900

log = structlog.get_logger()


@router.get(
    "/latency.csv",
    response_class=Response,
    responses=error_responses() | as_text("text/csv", "One row for each finished order."),
)
async def latency_csv(query: Annotated[requests.LatencyQuery, Query()], context: Ctx) -> Response:
    """Return one row for each finished order, oldest first. Durations are whole milliseconds; `completion_ms`
    is exactly the sum of the steps and `waiting_ms`."""
    rows = _csv_rows(context, _selected(query))
    # The first rows are read before the response starts, so that a database error is still a 503.
    first = await while_available(anext(rows), context.database)
    return _CsvResponse(first, rows, f"latency-{query.run_id}.csv" if query.run_id else "latency.csv")


async def _csv_rows(context: Context, selected: LatencyFilter) -> AsyncGenerator[bytes, None]:
    async with (
        context.report_limiter.slot(Report.EXPORT),
        aclosing(latency_report.stream_latency_csv(context.reports, selected)) as chunks,
    ):
        async for chunk in chunks:
            yield chunk


class _CsvResponse(StreamingResponse):
    """Releases the database connection however the download ends, also when the client stops reading."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], file_name: str) -> None:
        self._rest = rest

        async def content() -> AsyncGenerator[bytes, None]:
            yield first
            async for chunk in rest:
                yield chunk

        headers = {"Content-Disposition": f'attachment; filename="{file_name}"'}
        super().__init__(content(), media_type="text/csv", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(MAX_DOWNLOAD_SECONDS):
                await super().__call__(scope, receive, send)
        finally:
            await self._rest.aclose()


@router.get("/latency", responses=error_responses())
async def latency(
    query: Annotated[requests.LatencyQuery, Query()], context: Ctx
) -> responses.LatencyResponse:
    """Return exact counts and percentiles of the finished orders, in total and by step."""
    selected = _selected(query)
    async with context.report_limiter.slot(Report.SUMMARY):
        summary = await while_available(
            latency_report.latency_summary(context.reports, selected), context.database
        )
    return responses.LatencyResponse.of(summary, selected)


def _selected(query: requests.LatencyQuery) -> LatencyFilter:
    return LatencyFilter(query.run_id, query.since, query.until)


@router.get("/audit", responses=error_responses(404))
async def audit(query: Annotated[requests.AuditQuery, Query()], context: Ctx) -> responses.AuditResponse:
    """Compare the order database, the provider ledger and Temporal's workflows. Takes up to minutes."""
    async with context.report_limiter.slot(Report.AUDIT if query.run_id is None else Report.RUN_AUDIT):
        if not_simulated(context.settings) is not None:
            await copy_provider_records(context.settings, context.reports, query.run_id)
        report = await while_available(
            run_audit(
                context.reports,
                context.client,
                query.run_id,
                task_queue=context.settings.order_task_queue,
            ),
            context.database,
            context.client,
        )
    return responses.AuditResponse.of(report)


@router.get("/faults", responses=error_responses())
async def show_faults(context: Ctx) -> responses.FaultsResponse:
    """Return the active fault profile, and why it has no effect if a gateway is not simulated."""
    active = await with_timeout(fault_profiles.current(context.database))
    return responses.FaultsResponse.of(active, faults_unavailable(context.settings))


@router.put("/faults", responses=error_responses(409, 413))
async def set_faults(body: requests.FaultsBody, context: Ctx) -> responses.FaultsResponse:
    """Change the fault profile of the simulated gateways. Every worker applies it within a second. The
    response is 409 if a gateway is not simulated."""
    if (problem := faults_unavailable(context.settings)) is not None:
        raise FaultsUnavailable(problem)
    profile = _profile(body)
    change = await with_timeout(
        fault_profiles.record(context.database, profile.name, profile.seed, profile.to_json())
    )
    log.info("fault profile set", profile=profile.name, seed=profile.seed)
    return responses.FaultsResponse.of(change)


def _profile(body: requests.FaultsBody) -> FaultProfile:
    if body.profile != "custom":
        return named_profile(body.profile, body.seed)
    try:
        return FaultProfile.from_json(body.profile, body.seed, body.rates.model_dump())
    except ValueError as error:
        raise RequestMalformed(f"rates: {error}") from error


@router.get(
    "/health",
    responses={
        503: {"model": responses.HealthResponse, "description": "A component that orders need is down."}
    },
)
async def health(context: Ctx, response: Response) -> responses.HealthResponse:
    """Check that PostgreSQL and Temporal respond and that both task queues have active workers."""
    report = await context.health.report()
    if report.status == "unhealthy":
        response.status_code = 503
        response.headers["Retry-After"] = "1"
    return responses.HealthResponse.model_validate(report)


@router.get("/whoami", responses=error_responses())
async def whoami(request: Request) -> responses.CallerResponse:
    """Return the name and the role of the API key. The name is null for a request without a key."""
    name, role = caller_of(request)
    return responses.CallerResponse.model_validate({"name": name, "role": role.word})


@router.get(
    "/metrics",
    response_class=Response,
    responses=error_responses() | as_text("text/plain", "Prometheus text format."),
)
async def prometheus(context: Ctx) -> Response:
    """Return the metrics for Prometheus."""
    served = (await context.health.report()).queues_served
    return Response(await context.metrics.text(served), media_type=metrics.MEDIA_TYPE)
