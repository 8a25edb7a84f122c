"""The latency CSV of a selection, streamed from the database with the read-only role."""

from collections.abc import Awaitable, Callable, Iterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from dashboard import filters
from dashboard.data.clients import open_database
from db.read_models import latency, latency_report
from db.read_only_database import ReadOnlyDatabase
from orchestrator.errors import OrderSystemError, RequestMalformed, TextRejected
from orchestrator.settings import Settings

PATH = "/export/latency.csv"


def endpoint(settings: Settings) -> Callable[[Request], Awaitable[Response]]:
    """Return the route's endpoint, which has the same query parameters as the latency page."""
    database = open_database(settings)

    async def export(request: Request) -> Response:
        try:
            selection = filters.selection_of(request.query_params)
            return await run_in_threadpool(_respond, database, selection)
        except (RequestMalformed, TextRejected) as error:
            return PlainTextResponse(str(error), status_code=422)
        except OrderSystemError as error:
            return PlainTextResponse(str(error), status_code=503, headers={"Retry-After": "1"})

    return export


def _respond(database: ReadOnlyDatabase, selection: latency.Selection) -> Response:
    chunks = latency_report.latency_csv(database, selection)
    # Reading the first chunk before the response starts turns an error into a status code.
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
