"""Routes of stored load tests, which `python -m loadtest run` or the dashboard has started."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request

from db import run_catalog
from orchestrator.api.context import Ctx
from orchestrator.api.middleware.auth import caller_of
from orchestrator.api.problem_details import error_responses
from orchestrator.api.schemas import requests, responses
from orchestrator.api.timeouts import with_timeout
from orchestrator.errors import RunInProgress, RunUnknown

router = APIRouter(prefix="/runs", tags=["runs"], dependencies=[Depends(requests.require_single_values)])

RunIdPath = Annotated[requests.RunId, Path(description="1 to 64 letters, digits, `-` or `_`.")]

log = structlog.get_logger()


@router.get("", responses=error_responses(), summary="List load tests, newest first")
async def list_runs(
    query: Annotated[requests.RunListQuery, Query()], context: Ctx
) -> responses.RunListResponse:
    """Return the newest load tests with their results."""
    rows = await with_timeout(run_catalog.newest_runs(context.database, query.limit))
    return responses.RunListResponse(runs=[responses.RunResponse.of(row) for row in rows])


@router.get("/{run_id}", responses=error_responses(404), summary="Get a load test")
async def show_run(run_id: RunIdPath, context: Ctx) -> responses.RunResponse:
    """Return one load test with its result."""
    row = await with_timeout(run_catalog.find(context.database, run_id))
    if row is None:
        raise RunUnknown
    return responses.RunResponse.of(row)


@router.patch("/{run_id}", responses=error_responses(404, 413), summary="Change label, notes or baseline")
async def change_run(run_id: RunIdPath, body: requests.RunChangesBody, context: Ctx) -> responses.RunResponse:
    """Change the given fields. At most one run is the baseline: a new one replaces it."""
    changes = body.model_dump(exclude_unset=True)
    if not await with_timeout(run_catalog.change(context.database, run_id, changes)):
        raise RunUnknown
    return await show_run(run_id, context)


@router.delete("/{run_id}", responses=error_responses(404, 409), summary="Delete a load test")
async def delete_run(run_id: RunIdPath, context: Ctx, request: Request) -> responses.RunDeletedResponse:
    """Delete a load test that is not in progress, with its statistics and verdict. Its orders stay."""
    is_deleted = await with_timeout(run_catalog.delete(context.database, run_id))
    if is_deleted is None:
        raise RunUnknown
    if not is_deleted:
        raise RunInProgress
    log.info("run deleted", run_id=run_id, by=caller_of(request)[0])
    return responses.RunDeletedResponse(run_id=run_id, message="the run is deleted; its orders stay")
