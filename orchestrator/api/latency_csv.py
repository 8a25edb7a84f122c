"""The latency CSV: one row for each finished order, streamed."""

import asyncio
import csv
import io
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from db.database import Row
from db.read_models.latency_report import CSV_COLUMNS

ROWS_PER_CHUNK = 500
MAX_DOWNLOAD_SECONDS = 900


async def csv_chunks(rows: AsyncGenerator[Row, None]) -> AsyncGenerator[bytes, None]:
    """Yield the file in chunks. The first chunk has the header and the first rows, or raises if the query
    fails."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    n = 0
    async with aclosing(rows):
        async for row in rows:
            writer.writerow([row[column] for column in CSV_COLUMNS])
            n += 1
            if n % ROWS_PER_CHUNK == 0:
                yield _drain(buffer)
    yield _drain(buffer)


def _drain(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode()


async def csv_response(rows: AsyncGenerator[Row, None], file_name: str) -> StreamingResponse:
    """Return a streaming response. Reads the first rows before, so that a database error is still a 503."""
    chunks = csv_chunks(rows)
    return _CsvResponse(await anext(chunks), chunks, file_name)


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
