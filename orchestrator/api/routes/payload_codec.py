"""Temporal's remote codec: decrypts payloads for Temporal's UI and CLI.

These routes reveal every address, so they need a key of role operator. A browser may call them only from
pages of Temporal's UI.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from orchestrator.api.context import Context, Ctx
from orchestrator.api.problem_details import problem, responses
from orchestrator.api.routes.temporal_ui_login import CODEC, LOGIN
from orchestrator.errors import PayloadUnreadable, RequestMalformed

PREFIX = CODEC
MAX_BODY_BYTES = 1024 * 1024
"""Room for several payloads: the largest order that the API accepts (64 KiB) is half as large again when
encrypted."""

MAX_PAYLOADS = 1_000

router = APIRouter(prefix=PREFIX, tags=["codec"])


def _is_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None
    return text


Base64 = Annotated[
    str,
    Field(pattern=r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"),
    AfterValidator(_is_base64),
]


class EncodedPayload(BaseModel):
    """A payload in Temporal's JSON format. Unknown fields are dropped."""

    model_config = ConfigDict(extra="ignore")

    metadata: dict[str, Base64] = Field(default_factory=dict)
    data: Base64 = ""

    def to_payload(self) -> Payload:
        metadata = {name: base64.b64decode(value) for name, value in self.metadata.items()}
        return Payload(metadata=metadata, data=base64.b64decode(self.data))

    @classmethod
    def of(cls, payload: Payload) -> "EncodedPayload":
        metadata = {name: base64.b64encode(value).decode() for name, value in payload.metadata.items()}
        return cls(metadata=metadata, data=base64.b64encode(payload.data).decode())


class EncodedPayloads(BaseModel):
    payloads: list[EncodedPayload] = Field(max_length=MAX_PAYLOADS)


@router.post("/decode", response_model=EncodedPayloads, responses=responses(413))
async def decode(body: EncodedPayloads, context: Ctx) -> JSONResponse:
    """Decrypt payloads. Returns unencrypted payloads unchanged."""
    return await _convert(body, context, lambda codec, payloads: codec.decode(payloads))


@router.post("/encode", response_model=EncodedPayloads, responses=responses(413))
async def encode(body: EncodedPayloads, context: Ctx) -> JSONResponse:
    """Encrypt payloads, for a signal from Temporal's CLI. Returns them unchanged when PAYLOAD_KEYS is not
    set."""
    return await _convert(body, context, lambda codec, payloads: codec.encode(payloads))


async def _convert(
    body: EncodedPayloads,
    context: Context,
    convert: Callable[[PayloadCodec, Sequence[Payload]], Awaitable[list[Payload]]],
) -> JSONResponse:
    codec = context.client.data_converter.payload_codec
    assert codec is not None, "every client has a codec"
    try:
        converted = await convert(codec, [each.to_payload() for each in body.payloads])
    except PayloadUnreadable as error:
        raise RequestMalformed(str(error)) from error
    response = EncodedPayloads(payloads=[EncodedPayload.of(payload) for payload in converted])
    return JSONResponse(response.model_dump())


class CodecOrigins:
    """Return 403 for codec requests from pages of another origin than Temporal's UI, and add CORS headers.

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
            allow_credentials=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX) or scope["path"] == LOGIN:
            await self._app(scope, receive, send)
            return
        origin = Headers(scope=scope).get("origin")
        if origin is not None and origin not in self._origins:
            forbidden = problem(403, "only pages of Temporal's UI may call the codec from a browser")
            await forbidden(scope, receive, send)
            return
        await self._with_cors(scope, receive, send)
