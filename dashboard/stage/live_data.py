"""The live data of the page Stage as JSON: counters, recent orders, disturbances and fault profiles."""

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from dashboard.data import clients
from dashboard.data.cached import cached
from dashboard.view_models.slo_status import SLO_TARGET, slo_status
from db.read_models import latency, stage
from db.read_models.latency import Disturbance, FaultSpan
from db.read_models.playback import PlayedOrders
from db.read_only_database import ReadOnlyDatabase
from loadtest.playback.run_playback import RunPlayback
from loadtest.verdict.slo import SloVerdict
from orchestrator.errors import OrderSystemError
from orchestrator.rfc3339 import parse_rfc3339

PATH = "/stage/live.json"
REFRESH_SECONDS = 1.0
CACHE_SECONDS = 0.8
"""Shorter than the interval of the page, so that every refresh has new data."""

PICTURE_SECONDS = 60.0
"""Finished orders and disturbances of this time are in the picture."""

MAX_COUNTED = timedelta(hours=1)
"""Counting the orders of an hour at 20/s takes some 30 ms."""


async def live_data(request: Request) -> Response:
    """Return the data. The query parameter `since` limits the counters; without it they cover one hour."""
    given = request.query_params.get("since")
    try:
        since = parse_rfc3339(given) if given else None
    except ValueError as error:
        return PlainTextResponse(str(error), status_code=422)
    try:
        content = await run_in_threadpool(_read, since)
    except OrderSystemError as error:
        return PlainTextResponse(str(error), status_code=503, headers={"Retry-After": "1"})
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


def _read(since: datetime | None) -> dict[str, Any]:
    earliest = clients.now() - MAX_COUNTED
    counted_since = max(since or earliest, earliest)
    # Whole seconds, so that several stages share the cached counters of the last hour.
    counters = cached(stage.counters, CACHE_SECONDS)(counted_since.replace(microsecond=0))
    recent = cached(stage.recent_orders, CACHE_SECONDS)(PICTURE_SECONDS)
    disturbances, faults = cached(_recent_events, CACHE_SECONDS)()
    picture = RunPlayback(
        stage.EPOCH,
        clients.settings().order_deadline_seconds,
        PlayedOrders(recent.orders, len(recent.orders)),
        disturbances,
        faults,
    )
    verdict = slo_status(counters.decided, counters.late, SLO_TARGET).verdict
    return picture.to_json() | {
        "now_ms": recent.now_ms,
        "counters": {
            "orders": counters.orders,
            "late": counters.late,
            "lost": counters.lost,
            "charged_twice": counters.charged_twice,
        },
        "is_breached": verdict is SloVerdict.BREACHED,
    }


def _recent_events(reader: ReadOnlyDatabase) -> tuple[list[Disturbance], list[FaultSpan]]:
    now = datetime.now(UTC)
    since = now - timedelta(seconds=PICTURE_SECONDS)
    return latency.disturbances(reader, since, now), latency.fault_spans(reader, since, now)
