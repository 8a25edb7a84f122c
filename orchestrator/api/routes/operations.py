"""Routes for operators: latency, audit, fault profile, health and metrics."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from db import fault_profiles
from db.read_models import latency_report
from orchestrator.api import metrics
from orchestrator.api.context import Context, Ctx
from orchestrator.api.latency_csv import csv_response
from orchestrator.api.middleware.auth import caller_of
from orchestrator.api.problem_details import as_text, responses, status_of
from orchestrator.api.report_limiter import Report
from orchestrator.api.schemas.requests import AuditQuery, FaultHistoryQuery, FaultsBody, LatencyQuery
from orchestrator.api.schemas.responses import (
    AuditResponse,
    CallerResponse,
    FaultHistoryResponse,
    FaultsResponse,
    HealthResponse,
    LatencyResponse,
)
from orchestrator.api.timeouts import database_check, temporal_check, while_available, with_timeout
from orchestrator.audit import Progress
from orchestrator.audit import audit as run_audit
from orchestrator.errors import Overloaded, RequestMalformed, RunUnknown, ServiceUnavailable
from orchestrator.gateways.fault_injection import FaultProfile, named_profile

router = APIRouter(tags=["operations"])

log = structlog.get_logger()


@router.get(
    "/latency.csv",
    response_class=Response,
    responses=responses(429) | as_text("text/csv", "One row for each finished order."),
)
async def latency_csv(query: Annotated[LatencyQuery, Query()], context: Ctx) -> Response:
    """Return one row for each finished order, oldest first. Durations are whole milliseconds; `completion_ms`
    is exactly the sum of the steps and `waiting_ms`."""
    file_name = f"latency-{query.run_id}.csv" if query.run_id else "latency.csv"
    chunks = _latency_csv(context, _selected(query))
    return await while_available(csv_response(chunks, file_name), database_check(context.database))


async def _latency_csv(
    context: Context, selected: latency_report.LatencyFilter
) -> AsyncGenerator[bytes, None]:
    async with (
        context.report_limiter.slot(Report.EXPORT),
        aclosing(latency_report.stream_latency_csv(context.reports, selected)) as chunks,
    ):
        async for chunk in chunks:
            yield chunk


@router.get("/latency", responses=responses(429))
async def latency(query: Annotated[LatencyQuery, Query()], context: Ctx) -> LatencyResponse:
    """Return exact counts and percentiles of the finished orders, in total and by step."""
    selected = _selected(query)
    async with context.report_limiter.slot(Report.SUMMARY):
        summary = await while_available(
            latency_report.latency_summary(context.reports, selected), database_check(context.database)
        )
    return LatencyResponse.of(summary, selected)


def _selected(query: LatencyQuery) -> latency_report.LatencyFilter:
    return latency_report.LatencyFilter(query.run_id, query.since, query.until)


_JSON_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}


@router.get("/audit", response_model=AuditResponse, responses=responses(404, 429) | _JSON_LINES)
async def audit(query: Annotated[AuditQuery, Query()], context: Ctx) -> Response:
    """Compare the order database, the provider ledger and Temporal's closed workflows.

    With `progress`, the response is JSON lines: `{"workflows_checked": n}` while the audit runs, then
    `{"report": ...}`, or `{"problem": ...}` for an unknown run, too many running audits, or an unavailable
    service."""
    if query.progress:
        return StreamingResponse(_audit_lines(context, query.run_id), media_type="application/x-ndjson")
    return JSONResponse((await _audit(context, query.run_id)).model_dump(mode="json"))


async def _audit(context: Context, run_id: str | None, progress: Progress | None = None) -> AuditResponse:
    async with context.report_limiter.slot(Report.AUDIT):
        report = await while_available(
            run_audit(context.reports, context.client, run_id, progress=progress),
            database_check(context.database),
            temporal_check(context.client),
        )
    return AuditResponse.of(report)


async def _audit_lines(context: Context, run_id: str | None) -> AsyncGenerator[str, None]:
    checked: asyncio.Queue[int] = asyncio.Queue()
    auditing = asyncio.create_task(_audit(context, run_id, checked.put_nowait))
    try:
        while not auditing.done():
            with suppress(TimeoutError):
                n = await asyncio.wait_for(checked.get(), timeout=0.1)
                yield json.dumps({"workflows_checked": n}) + "\n"
        yield json.dumps({"report": auditing.result().model_dump(mode="json")}) + "\n"
    except (RunUnknown, Overloaded, ServiceUnavailable) as error:
        yield json.dumps({"problem": {"status": status_of(error), "detail": str(error)}}) + "\n"
    finally:
        auditing.cancel()


@router.get("/faults", responses=responses())
async def show_faults(context: Ctx) -> FaultsResponse:
    """Return the active fault profile."""
    return FaultsResponse.of(await with_timeout(fault_profiles.current(context.database)))


@router.put("/faults", responses=responses(413))
async def set_faults(body: FaultsBody, context: Ctx) -> FaultsResponse:
    """Change the fault profile of the simulated gateways. Every worker applies it within a second."""
    profile = _profile(body)
    change = await with_timeout(
        fault_profiles.record(context.database, profile.name, profile.seed, profile.to_json())
    )
    log.info("fault profile set", profile=profile.name, seed=profile.seed)
    return FaultsResponse.of(change)


@router.get("/faults/history", responses=responses())
async def fault_history(query: Annotated[FaultHistoryQuery, Query()], context: Ctx) -> FaultHistoryResponse:
    """Return the changes of the fault profile, newest first."""
    changes = await with_timeout(fault_profiles.history(context.database, query.limit))
    return FaultHistoryResponse(changes=[FaultsResponse.of(change) for change in changes])


def _profile(body: FaultsBody) -> FaultProfile:
    if body.profile != "custom":
        return named_profile(body.profile, body.seed)
    try:
        return FaultProfile.from_json(body.profile, body.seed, body.rates.model_dump())
    except ValueError as error:
        raise RequestMalformed(f"rates: {error}") from error


@router.get(
    "/health",
    responses={503: {"model": HealthResponse, "description": "A component that orders need is down."}},
)
async def health(context: Ctx, response: Response) -> HealthResponse:
    """Check that PostgreSQL and Temporal respond and that both task queues have active workers."""
    report = await context.health.report()
    if not report.is_healthy:
        response.status_code = 503
        response.headers["Retry-After"] = "1"
    return HealthResponse(
        status="healthy" if report.is_healthy else "unhealthy",
        timestamp=report.at,
        temporal_connected=report.temporal_connected,
        database_connected=report.database_connected,
        workers_healthy=report.workers_healthy,
    )


@router.get("/whoami", responses=responses())
async def whoami(request: Request) -> CallerResponse:
    """Return the name and the role of the API key. The name is null for a request without a key."""
    name, role = caller_of(request)
    return CallerResponse.model_validate({"name": name, "role": role.word})


@router.get(
    "/metrics",
    response_class=Response,
    responses=responses() | as_text("text/plain", "Prometheus text format."),
)
async def prometheus(context: Ctx) -> Response:
    """Return the metrics for Prometheus."""
    served = (await context.health.report()).queues_served
    return Response(await context.metrics.text(served), media_type=metrics.MEDIA_TYPE)
