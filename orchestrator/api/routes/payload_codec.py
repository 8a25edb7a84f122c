"""Temporal's remote codec protocol: its UI and its CLI have payloads decrypted here, to show them.

Whoever may call these routes reads every address, so they are as much worth guarding as the books. A
browser may call them for a page of Temporal's UI alone, whatever other page the same person has open.
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
"""An order of the largest size that the API takes has grown by a half here; several may come at once."""

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
    """A payload in the JSON of Temporal's protocol buffers; fields that are not ours are not kept."""

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
    """Decrypts payloads; those that are not encrypted come back as they are."""
    return await _converted(body, context, lambda codec, payloads: codec.decode(payloads))


@router.post("/encode", response_model=EncodedPayloads, responses=responses(413))
async def encode(body: EncodedPayloads, context: Ctx) -> JSONResponse:
    """Encrypts payloads, for a signal from Temporal's CLI. Without keys they come back as they are."""
    return await _converted(body, context, lambda codec, payloads: codec.encode(payloads))


async def _converted(
    body: EncodedPayloads,
    context: Context,
    convert: Callable[[PayloadCodec, Sequence[Payload]], Awaitable[list[Payload]]],
) -> JSONResponse:
    codec = context.client.data_converter.payload_codec
    assert codec is not None, "every client has one"
    try:
        converted = await convert(codec, [each.to_payload() for each in body.payloads])
    except PayloadUnreadable as error:
        raise RequestMalformed(str(error)) from error
    answer = EncodedPayloads(payloads=[EncodedPayload.of(payload) for payload in converted])
    return JSONResponse(answer.model_dump())


class OnlyForTheUi:
    """Lets a browser call the codec for pages of Temporal's UI, and answers 403 for every other page.

    Whether a page may read an answer is the browser's business, and CORS tells it. But a page whose name
    leads to this machine counts as the API's own there; it is told by its origin alone.
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
            refused = problem(403, "only pages of Temporal's UI may call the codec from a browser")
            await refused(scope, receive, send)
            return
        await self._with_cors(scope, receive, send)
