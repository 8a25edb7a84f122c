"""Routes for those who run the system: latency, audit, faults, health and metrics."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request
from fastapi.encoders import jsonable_encoder
from starlette.responses import JSONResponse, Response, StreamingResponse

from db import fault_profiles
from db.database import Row
from db.read_models import order_details
from orchestrator.api import metrics, views
from orchestrator.api.auth import caller_of
from orchestrator.api.context import Context, Ctx
from orchestrator.api.latency_csv import csv_response
from orchestrator.api.models import (
    AuditAnswer,
    AuditQuery,
    CallerAnswer,
    FaultHistoryAnswer,
    FaultHistoryQuery,
    FaultsAnswer,
    FaultsBody,
    HealthAnswer,
    LatencyAnswer,
    LatencyQuery,
)
from orchestrator.api.problem_details import as_text, responses, status_of
from orchestrator.api.report_limiter import Report
from orchestrator.api.timeouts import database_timeout, temporal_timeout, while_alive, within
from orchestrator.audit import AuditReport, Progress
from orchestrator.audit import audit as audit_everything
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
    """One row for each finished order, oldest first: where its time went. Durations are whole
    milliseconds; `completion_ms` is exactly the sum of the steps and `waiting_ms`."""
    name = f"latency-{query.run_id}.csv" if query.run_id else "latency.csv"
    rows = _exported(context, _chosen(query))
    return await while_alive(csv_response(rows, name), database_timeout(context.database))


async def _exported(context: Context, chosen: order_details.LatencyFilter) -> AsyncGenerator[Row, None]:
    async with (
        context.places.of(Report.EXPORT),
        aclosing(order_details.latency_rows(context.reports, chosen)) as rows,
    ):
        async for row in rows:
            yield row


@router.get("/latency", response_model=LatencyAnswer, responses=responses(429))
async def latency(query: Annotated[LatencyQuery, Query()], context: Ctx) -> JSONResponse:
    """Exact counts and percentiles of the finished orders, and how each step contributes."""
    chosen = _chosen(query)
    async with context.places.of(Report.SUMMARY):
        summary = await while_alive(
            order_details.latency_summary(context.reports, chosen), database_timeout(context.database)
        )
    return JSONResponse(views.latency(summary, chosen))


def _chosen(query: LatencyQuery) -> order_details.LatencyFilter:
    return order_details.LatencyFilter(query.run_id, query.since, query.until)


_AUDIT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}


@router.get("/audit", response_model=AuditAnswer, responses=responses(404, 429) | _AUDIT_ANSWERS)
async def audit(query: Annotated[AuditQuery, Query()], context: Ctx) -> Response:
    """Our books, the provider's ledger and Temporal's closed workflows held against each other.

    With `progress`, the answer is JSON lines: `{"workflows_checked": n}` while it is made, and at last
    `{"report": ...}`, or `{"problem": ...}` when there is no such run, too much to do, or something went away
    meanwhile."""
    if query.progress:
        return StreamingResponse(_audit_lines(context, query.run_id), media_type="application/x-ndjson")
    return JSONResponse(jsonable_encoder((await _audited(context, query.run_id)).to_json()))


async def _audited(context: Context, run_id: str | None, progress: Progress | None = None) -> AuditReport:
    async with context.places.of(Report.AUDIT):
        return await while_alive(
            audit_everything(context.reports, context.client, run_id, progress=progress),
            database_timeout(context.database),
            temporal_timeout(context.client),
        )


async def _audit_lines(context: Context, run_id: str | None) -> AsyncGenerator[str, None]:
    checked: asyncio.Queue[int] = asyncio.Queue()
    auditing = asyncio.create_task(_audited(context, run_id, checked.put_nowait))
    try:
        while not auditing.done():
            with suppress(TimeoutError):
                n = await asyncio.wait_for(checked.get(), timeout=0.1)
                yield json.dumps({"workflows_checked": n}) + "\n"
        yield json.dumps({"report": jsonable_encoder(auditing.result().to_json())}) + "\n"
    except (RunUnknown, Overloaded, ServiceUnavailable) as error:
        yield json.dumps({"problem": {"status": status_of(error), "detail": str(error)}}) + "\n"
    finally:
        auditing.cancel()


@router.get("/faults", response_model=FaultsAnswer, responses=responses())
async def show_faults(context: Ctx) -> JSONResponse:
    """The fault profile in force."""
    return JSONResponse(views.faults(await within(fault_profiles.current(context.database))))


@router.put("/faults", response_model=FaultsAnswer, responses=responses(413))
async def set_faults(body: FaultsBody, context: Ctx) -> JSONResponse:
    """Changes what the simulated outside world does wrong, at every worker within a second."""
    profile = _profile(body)
    change = await within(
        fault_profiles.record(context.database, profile.name, profile.seed, profile.to_json())
    )
    log.info("fault profile set", profile=profile.name, seed=profile.seed)
    return JSONResponse(views.faults(change))


@router.get("/faults/history", response_model=FaultHistoryAnswer, responses=responses())
async def fault_history(query: Annotated[FaultHistoryQuery, Query()], context: Ctx) -> JSONResponse:
    """The changes of the fault profile, newest first."""
    changes = await within(fault_profiles.history(context.database, query.limit))
    return JSONResponse({"changes": [views.faults(change) for change in changes]})


def _profile(body: FaultsBody) -> FaultProfile:
    if body.profile != "custom":
        return named_profile(body.profile, body.seed)
    try:
        return FaultProfile.from_json(body.profile, body.seed, body.rates.model_dump())
    except ValueError as error:
        raise RequestMalformed(f"rates: {error}") from error


@router.get(
    "/health",
    response_model=HealthAnswer,
    responses={503: {"model": HealthAnswer, "description": "A part that orders need is not there."}},
)
async def health(context: Ctx) -> JSONResponse:
    """Whether PostgreSQL and Temporal answer and both task queues have live workers, from real checks."""
    report = await context.health.report()
    return JSONResponse(
        {
            "status": "healthy" if report.is_healthy else "unhealthy",
            "timestamp": views.rfc3339(report.at),
            "temporal_connected": report.temporal_connected,
            "database_connected": report.database_connected,
            "workers_healthy": report.workers_healthy,
        },
        status_code=200 if report.is_healthy else 503,
        headers=None if report.is_healthy else {"Retry-After": "1"},
    )


@router.get("/whoami", response_model=CallerAnswer, responses=responses())
async def whoami(request: Request) -> JSONResponse:
    """Whose key this is and what it is good for; the name is null while no key is needed."""
    name, role = caller_of(request)
    return JSONResponse({"name": name, "role": role.word})


@router.get(
    "/metrics", response_class=Response, responses=responses() | as_text("text/plain", "Prometheus text.")
)
async def prometheus(context: Ctx) -> Response:
    """The figures for Prometheus."""
    served = (await context.health.report()).queues_served
    return Response(await context.metrics.text(served), media_type=metrics.MEDIA_TYPE)
