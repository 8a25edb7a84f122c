"""The latency CSV of what a filter shows, streamed by the dashboard's own server from the read-only role."""

from collections.abc import Awaitable, Callable, Iterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from dashboard import filters
from dashboard.data.clients import open_reader
from db.read_models import latency
from db.read_only_database import ReadOnlyDatabase
from orchestrator.errors import OrderSystemError, RequestMalformed, TextRejected
from orchestrator.settings import Settings

PATH = "/export/latency.csv"


def serve(settings: Settings) -> Callable[[Request], Awaitable[Response]]:
    """The route's endpoint. Takes the same query as the latency page, so a link is enough."""
    reader = open_reader(settings)

    async def endpoint(request: Request) -> Response:
        try:
            chosen = filters.selection_of(request.query_params)
            return await run_in_threadpool(_begin, reader, chosen)
        except (RequestMalformed, TextRejected) as error:
            return PlainTextResponse(str(error), status_code=422)
        except OrderSystemError as error:
            return PlainTextResponse(str(error), status_code=503, headers={"Retry-After": "1"})

    return endpoint


def _begin(reader: ReadOnlyDatabase, chosen: latency.Selection) -> Response:
    pieces = latency.latency_csv(reader, chosen)
    # The first piece is read before the answer begins: what goes wrong is still a status.
    first = next(pieces)

    def content() -> Iterator[bytes]:
        yield first
        yield from pieces

    name = f"latency-{chosen.run_id}.csv" if chosen.run_id else "latency.csv"
    return StreamingResponse(
        content(),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )
