"""The dashboard's door, around an application that shows what it must not show to everybody."""

import asyncio

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from dashboard import auth
from orchestrator.errors import ServiceUnavailable
from orchestrator.security import role_cache
from orchestrator.security.key_hashing import Role
from orchestrator.settings import Settings

SECRET = "what only viewers may see"
KEYS = {"good-key": Role.VIEWER}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": SECRET})
            await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": SECRET.encode()})


def door(**others: str) -> auth.AuthMiddleware:
    return auth.AuthMiddleware(application, Settings(_env_file=None, **others))


def browser(through: auth.AuthMiddleware) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(through), base_url="http://dashboard")


@pytest.fixture
def known(monkeypatch):
    """The keys that the API knows; None stands for everybody."""
    found: dict[str | None, Role] = dict(KEYS)
    monkeypatch.setattr(role_cache, "look_up_role", lambda _url, key: found.get(key))
    monkeypatch.setattr(role_cache, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(auth, "LOOK_AGAIN_SECONDS", 0.0)
    return found


async def test_a_key_opens_the_door_and_its_revocation_shuts_it(known):
    async with browser(door()) as client:
        shut = await client.get("/orders")
        assert (shut.status_code, SECRET in shut.text) == (401, False)
        assert "API key" in shut.text
        assert (await client.post("/login", data={"key": "bad-key"})).status_code == 401
        let_in = await client.post("/login", data={"key": " good-key "})
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
        assert "good-key" not in str(let_in.headers)
        for flag in ("HttpOnly", "SameSite=strict"):
            assert flag in let_in.headers["set-cookie"]
        assert (await client.get("/export/latency.csv")).text == SECRET
        known.clear()
        again = await client.get("/orders")
        assert (again.status_code, "not valid any more" in again.text) == (401, True)


async def test_without_keys_the_door_stands_open_on_this_machine_alone(known):
    known[None] = Role.CHAOS
    async with browser(door()) as client:
        assert (await client.get("/", headers={"Host": "127.0.0.1:8501"})).text == SECRET
        rebound = await client.get("/", headers={"Host": "evil.example:8501"})
        assert (rebound.status_code, SECRET in rebound.text) == (421, False)
        await client.post("/login", data={"key": "good-key"})
        assert (await client.get("/", headers={"Host": "orders.example"})).text == SECRET, "through a proxy"
    async with browser(door(bind_address="0.0.0.0")) as client:
        assert (await client.get("/")).status_code == 401


async def test_nobody_is_let_in_while_nobody_can_be_known(monkeypatch):
    def away(_url, _key):
        raise ServiceUnavailable("the API is not responding")

    monkeypatch.setattr(role_cache, "look_up_role", away)
    async with browser(door()) as client:
        shut = await client.get("/")
        assert (shut.status_code, SECRET in shut.text) == (503, False)
        # No key would help, so none is asked for.
        assert "The API is not responding; is the stack up?" in shut.text
        assert "Try again" in shut.text
        assert "API key" not in shut.text
        assert (await client.post("/login", data={"key": "good-key"})).status_code == 503
        assert (await client.get("/_stcore/health")).status_code == 200


@pytest.mark.parametrize(
    "form", [b"", b"key=", b"key=%00", b"key=%ff", b"key=a%0d%0ab", b"\xff\xfe", b"other=good-key"]
)
async def test_what_is_no_key_opens_nothing(known, form):
    async with browser(door()) as client:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert (await client.post("/login", content=form, headers=headers)).status_code == 401
        assert (await client.post("/login", content=b"key=" + b"a" * 10_000)).status_code == 413


async def through_web_socket(shut: auth.AuthMiddleware, cookie: str, known: dict, *, after: int) -> list[str]:
    """The types of what a web socket is sent; the keys are forgotten after so many."""
    seen: list[str] = []
    done = asyncio.Event()

    async def send(message) -> None:
        seen.append(message["type"])
        if len(seen) == after:
            known.clear()
        if message["type"] == "websocket.close":
            done.set()

    async def receive():
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket", "path": "/_stcore/stream", "headers": [(b"cookie", cookie.encode())],
        "query_string": b"", "scheme": "ws", "subprotocols": [],
    }  # fmt: skip
    carrying = asyncio.create_task(shut(scope, receive, send))
    await asyncio.wait_for(done.wait(), 10)
    carrying.cancel()
    return seen


async def test_an_open_page_is_closed_when_its_key_is_revoked(known):
    shut = door()
    assert await through_web_socket(shut, "", known, after=0) == ["websocket.close"]
    session = auth.viewers.create("good-key")
    seen = await through_web_socket(shut, f"{auth.viewers.cookie}={session}", known, after=5)
    assert seen[0] == "websocket.accept"
    assert seen[-1] == "websocket.close"
    assert len(seen) < 12, "at the next look"
