"""A fake Stripe: localstripe as a process, behind a proxy.

The proxy replays responses by idempotency key, which localstripe ignores, gives `localstripe` no parameters
that it does not know, and can lose responses.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response

from tests.ports import free_port_base

STARTUP_SECONDS = 60.0
HANG_SECONDS = 5.0
CARD = "4242424242424242"
DECLINED_CARD = "4000000000000341"
"""localstripe accepts this card as a PaymentMethod, and declines its charges."""

API_KEY = "sk_test_1234567890"


@dataclass
class FakeStripe:
    """`lost_share` of the calls take effect, and their responses are lost: half fail, half hang. `hold`
    delays the calls to a path until it is set."""

    upstream: httpx.AsyncClient
    url: str
    lost_share: float = 0.0
    lost: int = 0
    holds: dict[str, asyncio.Event] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    _responses: dict[str, asyncio.Task[httpx.Response]] = field(default_factory=dict)

    async def payment_method(self, card: str = CARD) -> str:
        """Create a PaymentMethod, as a customer's browser does, and return its id."""
        data = {"type": "card", "card[number]": card, "card[exp_month]": "12", "card[exp_year]": "2050"}
        response = await self.upstream.post(
            "/v1/payment_methods", data=data | {"card[cvc]": "123"}, auth=(API_KEY, "")
        )
        return str(response.raise_for_status().json()["id"])

    async def objects(self, kind: str) -> list[dict[str, object]]:
        response = await self.upstream.get(f"/v1/{kind}", params={"limit": 100}, auth=(API_KEY, ""))
        page = response.raise_for_status().json()
        found: list[dict[str, object]] = page["data"]
        while page["has_more"]:
            params = {"limit": 100, "starting_after": str(found[-1]["id"])}
            response = await self.upstream.get(f"/v1/{kind}", params=params, auth=(API_KEY, ""))
            page = response.raise_for_status().json()
            found += page["data"]
        return found

    async def handle(self, request: Request) -> Response:
        path, key = request.url.path, request.headers.get("Idempotency-Key")
        self.calls.append(path)
        if (hold := self.holds.get(path.rpartition("/")[2])) is not None:
            await hold.wait()
        task = self._responses.get(key) if key else None
        if task is None:
            task = asyncio.create_task(self._forward(request, await request.body()))
            if key:
                self._responses[key] = task
        response = await asyncio.shield(task)
        if key and _share(key, len(self.calls)) < self.lost_share:
            self.lost += 1
            if self.lost % 2:
                await asyncio.sleep(HANG_SECONDS)
            return Response(status_code=502)
        return Response(response.content, response.status_code, media_type="application/json")

    async def _forward(self, request: Request, body: bytes) -> httpx.Response:
        params = [(name, value) for name, value in request.query_params.multi_items()
                  if not name.startswith("created")]  # fmt: skip
        headers = {name: request.headers[name] for name in ("authorization", "content-type")
                   if name in request.headers}  # fmt: skip
        path = request.url.path
        return await self.upstream.request(request.method, path, params=params, content=body, headers=headers)


def _share(key: str, call: int) -> float:
    return int.from_bytes(blake2b(f"{key}/{call}".encode(), digest_size=8).digest()) / 2**64


@asynccontextmanager
async def fake_stripe() -> AsyncIterator[FakeStripe]:
    base = free_port_base()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "localstripe.server", "--from-scratch", "--port", str(base)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://localhost:{base}") as upstream:
            await _wait_for(upstream, process)
            fake = FakeStripe(upstream, f"http://127.0.0.1:{base + 1}")
            app = FastAPI()
            app.add_route("/{path:path}", fake.handle, methods=["GET", "POST", "DELETE"])
            server = uvicorn.Server(uvicorn.Config(app, port=base + 1, log_level="warning", lifespan="off"))
            serving = asyncio.create_task(server.serve())
            try:
                while not server.started:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                yield fake
            finally:
                server.should_exit = server.force_exit = True
                await serving
    finally:
        process.terminate()
        await process.wait()


async def _wait_for(upstream: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(STARTUP_SECONDS):
        while True:
            assert process.returncode is None, "localstripe ended"
            with suppress(httpx.TransportError):
                await upstream.get("/v1/charges", auth=(API_KEY, ""))
                return
            await asyncio.sleep(0.05)
