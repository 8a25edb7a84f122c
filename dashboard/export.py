"""The latency CSV of a selection, streamed from the database with the read-only role."""

from collections.abc import Iterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from dashboard import filters
from dashboard.data import clients
from db.read_models import latency, latency_report
from orchestrator.errors import OrderSystemError, RequestMalformed, ValueRejected

PATH = "/export/latency.csv"


async def export(request: Request) -> Response:
    """Stream the selected orders as CSV. The query parameters are those of the latency page."""
    try:
        query = filters.check_query("latency", request.query_params.multi_items())
        return await run_in_threadpool(_respond, filters.selection_of(query))
    except (RequestMalformed, ValueRejected) as error:
        return PlainTextResponse(str(error), status_code=422)
    except OrderSystemError as error:
        return PlainTextResponse(str(error), status_code=503, headers={"Retry-After": "1"})


def _respond(selection: latency.Selection) -> Response:
    if selection.fault_profile not in (None, *latency.fault_profiles(clients.database())):
        raise RequestMalformed("unknown fault profile")
    chunks = latency_report.latency_csv(clients.database(), selection)
    # Read the first chunk before the response starts: later, an error could not change the status code.
    first = next(chunks)

    def content() -> Iterator[bytes]:
        yield first
        yield from chunks

    name = f"latency-{selection.run_id}.csv" if selection.run_id else "latency.csv"
    return StreamingResponse(
        content(),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )
