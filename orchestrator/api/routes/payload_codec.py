"""Temporal's remote codec: decrypts payloads for the Temporal UI and CLI.

These routes reveal every address, so they need a key of role operator. A browser may call them only from
pages of the Temporal UI, through a reverse proxy that adds the key (docs/how-to/encrypt-payloads.md).
"""

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, WithJsonSchema
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from orchestrator.api.context import Context, Ctx
from orchestrator.api.problem_details import error_responses, problem
from orchestrator.errors import PayloadUnreadable, RequestMalformed

PREFIX = "/codec"
MAX_BODY_BYTES = 1024 * 1024
"""Room for several payloads: the largest order that the API accepts (64 KiB) is half as large again when
encrypted."""

MAX_PAYLOADS = 1_000

router = APIRouter(prefix=PREFIX, tags=["codec"])


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise ValueError("must be base64") from None


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


Base64 = Annotated[
    bytes,
    BeforeValidator(_decode),
    PlainSerializer(_encode, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"}
    ),
]


class EncodedPayload(BaseModel):
    """A payload in Temporal's JSON format. Unknown fields are dropped."""

    metadata: dict[str, Base64] = Field(default_factory=dict)
    data: Base64 = b""


class EncodedPayloads(BaseModel):
    payloads: list[EncodedPayload] = Field(max_length=MAX_PAYLOADS)


@router.post("/decode", responses=error_responses(413))
async def decode(body: EncodedPayloads, context: Ctx) -> EncodedPayloads:
    """Decrypt payloads. Returns unencrypted payloads unchanged."""
    return await _convert(body, _codec(context).decode)


@router.post("/encode", responses=error_responses(413))
async def encode(body: EncodedPayloads, context: Ctx) -> EncodedPayloads:
    """Encrypt payloads, for a signal from Temporal's CLI. Returns them unchanged without PAYLOAD_KEYS."""
    return await _convert(body, _codec(context).encode)


def _codec(context: Context) -> PayloadCodec:
    codec = context.client.data_converter.payload_codec
    assert codec is not None, "every client has a codec"
    return codec


async def _convert(
    body: EncodedPayloads, convert: Callable[[Sequence[Payload]], Awaitable[list[Payload]]]
) -> EncodedPayloads:
    try:
        converted = await convert([Payload(metadata=each.metadata, data=each.data) for each in body.payloads])
    except PayloadUnreadable as error:
        raise RequestMalformed(str(error)) from error
    # Not validated: the fields are bytes already.
    return EncodedPayloads(
        payloads=[
            EncodedPayload.model_construct(metadata=dict(payload.metadata), data=payload.data)
            for payload in converted
        ]
    )


class CodecOrigins:
    """Return 403 for codec requests from pages of another origin than the Temporal UI, and add CORS headers.

    CORS alone is not enough: under DNS rebinding, the browser treats another site's page as same-origin.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = origins
        self._with_cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["POST"],
            allow_headers=["authorization", "content-type", "x-namespace"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        origin = Headers(scope=scope).get("origin")
        if origin is not None and origin not in self._origins:
            forbidden = problem(403, "only pages of the Temporal UI may call the codec from a browser")
            await forbidden(scope, receive, send)
            return
        await self._with_cors(scope, receive, send)
