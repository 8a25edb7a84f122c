"""The response of the latency CSV, streamed from the database."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

MAX_DOWNLOAD_SECONDS = 900


async def csv_response(chunks: AsyncGenerator[bytes, None], file_name: str) -> StreamingResponse:
    """Return a streaming response. Reads the first chunk before, so that a database error is still a 503."""
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
