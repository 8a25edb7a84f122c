"""Authentication of the dashboard, around an application that returns a secret."""

import asyncio

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from dashboard import sign_in
from orchestrator.errors import ServiceUnavailable
from orchestrator.rest_client import CertificateRejected
from orchestrator.security import keyless_access, role_cache, sessions
from orchestrator.security.key_hashing import Role
from orchestrator.settings import Settings

SECRET = "content for signed-in users"
KEYS = {"good-key": Role.VIEWER}
COOKIE = sign_in.session_cookie(Settings(_env_file=None))


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": SECRET})
            await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": SECRET.encode()})


def middleware(**settings: str) -> sign_in.SignInMiddleware:
    return sign_in.SignInMiddleware(application, Settings(_env_file=None, **settings))


def browser(app: sign_in.SignInMiddleware) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dashboard")


@pytest.fixture
def roles(monkeypatch):
    """The roles of the keys that the API knows; the key None stands for requests without a key."""
    found: dict[str | None, Role] = dict(KEYS)
    monkeypatch.setattr(role_cache, "look_up_role", lambda _url, key: found.get(key))
    monkeypatch.setattr(role_cache, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(sign_in, "RECHECK_SECONDS", 0.0)
    return found


async def test_a_key_gives_access_until_it_is_revoked(roles):
    async with browser(middleware()) as client:
        rejected = await client.get("/orders")
        assert (rejected.status_code, SECRET in rejected.text) == (401, False)
        assert "API key" in rejected.text
        assert (await client.post("/login", data={"key": "bad-key"})).status_code == 401
        signed_in = await client.post("/login", data={"key": " good-key "})
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/")
        assert "good-key" not in str(signed_in.headers)
        for flag in ("HttpOnly", "SameSite=strict"):
            assert flag in signed_in.headers["set-cookie"]
        assert (await client.get("/export/latency.csv")).text == SECRET
        roles.clear()
        revoked = await client.get("/orders")
        assert (revoked.status_code, "no longer valid" in revoked.text) == (401, True)


async def test_without_keys_only_loopback_requests_have_access(roles):
    roles[None] = Role.CHAOS
    async with browser(middleware()) as client:
        assert (await client.get("/", headers={"Host": "127.0.0.1:8501"})).text == SECRET
        rebound = await client.get("/", headers={"Host": "evil.example:8501"})
        assert (rebound.status_code, SECRET in rebound.text) == (421, False)
        await client.post("/login", data={"key": "good-key"})
        assert (await client.get("/", headers={"Host": "orders.example"})).text == SECRET, "through a proxy"
    async with browser(middleware(bind_address="0.0.0.0")) as client:
        assert (await client.get("/")).status_code == 401


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via"])
async def test_without_keys_a_forwarded_request_has_no_access(roles, header):
    roles[None] = Role.CHAOS
    async with browser(middleware()) as client:
        local = {"Host": "127.0.0.1:8501"}
        rejected = await client.get("/", headers=local | {header: "192.0.2.1"})
        assert (rejected.status_code, SECRET in rejected.text) == (401, False)
        assert "the request came through a proxy" in rejected.text
        await client.post("/login", data={"key": "good-key"})
        assert (await client.get("/", headers=local | {header: "192.0.2.1"})).text == SECRET


async def test_without_keys_a_page_of_a_proxy_without_headers_is_closed(roles, monkeypatch):
    roles[None] = Role.CHAOS
    monkeypatch.setattr(keyless_access, "request_refusal", lambda _scope: None)
    monkeypatch.setattr(keyless_access, "connection_comes_from_proxy", lambda _scope: True)
    assert await websocket_messages(middleware(), "", roles, revoke_after=99) == ["websocket.close"]


async def test_nobody_has_access_while_the_api_is_down(monkeypatch):
    def fail(_url, _key):
        raise ServiceUnavailable("the API is not responding")

    monkeypatch.setattr(role_cache, "look_up_role", fail)
    async with browser(middleware()) as client:
        rejected = await client.get("/")
        assert (rejected.status_code, SECRET in rejected.text) == (503, False)
        assert "Sign-in is unavailable: the API is not responding. Try again shortly." in rejected.text
        assert "Retry" in rejected.text
        # No key would help, so the page has no form.
        assert "API key" not in rejected.text
        assert (await client.post("/login", data={"key": "good-key"})).status_code == 503
        assert (await client.get("/_stcore/health")).status_code == 200


@pytest.mark.parametrize(
    "form", [b"", b"key=", b"key=%00", b"key=%ff", b"key=a%0d%0ab", b"\xff\xfe", b"other=good-key"]
)
async def test_malformed_keys_are_rejected(roles, form):
    async with browser(middleware()) as client:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert (await client.post("/login", content=form, headers=headers)).status_code == 401
        assert (await client.post("/login", content=b"key=" + b"a" * 10_000)).status_code == 413


async def websocket_messages(
    app: sign_in.SignInMiddleware, cookie: str, roles: dict, *, revoke_after: int
) -> list[str]:
    """Return the types of a WebSocket's messages. All keys are revoked after `revoke_after` messages."""
    types: list[str] = []
    done = asyncio.Event()

    async def send(message) -> None:
        types.append(message["type"])
        if len(types) == revoke_after:
            roles.clear()
        if message["type"] == "websocket.close":
            done.set()

    async def receive():
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket", "path": "/_stcore/stream", "headers": [(b"cookie", cookie.encode())],
        "query_string": b"", "scheme": "ws", "subprotocols": [],
    }  # fmt: skip
    task = asyncio.create_task(app(scope, receive, send))
    await asyncio.wait_for(done.wait(), 10)
    task.cancel()
    return types


async def test_an_open_page_is_closed_when_its_key_is_revoked(roles):
    app = middleware()
    assert await websocket_messages(app, "", roles, revoke_after=0) == ["websocket.close"]
    session = sign_in.sessions.create("good-key")
    types = await websocket_messages(app, f"{COOKIE}={session}", roles, revoke_after=5)
    assert types[0] == "websocket.accept"
    assert types[-1] == "websocket.close"
    assert len(types) < 12, "closed at the next check"


async def test_an_open_page_is_closed_when_its_session_ends(roles):
    session = sign_in.sessions.create("good-key")

    class EndsSession(dict):
        def clear(self):
            sign_in.sessions.end(session)

    types = await websocket_messages(middleware(), f"{COOKIE}={session}", EndsSession(), revoke_after=5)
    assert types[-1] == "websocket.close"
    assert len(types) < 12, "closed at the next check"


async def test_signing_out_ends_the_session(roles):
    async with browser(middleware()) as client:
        await client.post("/login", data={"key": "good-key"})
        stolen = dict(client.cookies)
        signed_out = await client.get("/logout")
        assert (signed_out.status_code, signed_out.headers["location"]) == (303, "/")
        assert (await client.get("/")).status_code == 401
        client.cookies.update(stolen)
        assert (await client.get("/")).status_code == 401


@pytest.mark.parametrize(("limit", "is_used"), [("MAX_AGE_SECONDS", True), ("MAX_IDLE_SECONDS", False)])
async def test_a_session_expires(roles, monkeypatch, limit, is_used):
    now = 1_000.0
    monkeypatch.setattr(sessions, "monotonic", lambda: now)
    async with browser(middleware()) as client:
        await client.post("/login", data={"key": "good-key"})
        last = now + getattr(sessions, limit)
        while is_used and now < last - 1_800:
            now += 1_800
            assert (await client.get("/")).text == SECRET
        now = last - 1
        assert (await client.get("/")).text == SECRET
        now += 2 if is_used else getattr(sessions, limit) + 1
        assert (await client.get("/")).status_code == 401


async def test_a_rejected_certificate_is_named(monkeypatch):
    def fail(_url, _key):
        raise CertificateRejected("the certificate of the API at https://api is rejected: it has expired")

    monkeypatch.setattr(role_cache, "look_up_role", fail)
    async with browser(middleware()) as client:
        for response in (await client.get("/"), await client.post("/login", data={"key": "good-key"})):
            assert response.status_code == 503
            assert "certificate of the API at https://api is rejected: it has expired." in response.text


async def test_a_dashboard_below_a_path_keeps_its_redirects_and_cookie_there(roles):
    async with browser(middleware(dashboard_base_path="/dash/")) as client:
        form = await client.get("/dash/")
        assert (form.status_code, "action='/dash/login'" in form.text) == (401, True)
        signed_in = await client.post("/dash/login", data={"key": "good-key"})
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/dash/")
        assert "Path=/dash/;" in signed_in.headers["set-cookie"]
        assert (await client.get("/dash/orders")).text == SECRET
        assert (await client.get("/orders")).status_code == 401
        assert (await client.get("/dash/_stcore/health")).status_code == 200


async def test_two_dashboards_of_one_host_have_a_session_each(roles):
    async with browser(middleware(dashboard_port=8501)) as one:
        await one.post("/login", data={"key": "good-key"})
        cookies = dict(one.cookies)
        async with browser(middleware(dashboard_port=9501)) as two:
            # A browser sends both cookies to both ports.
            two.cookies.update(cookies)
            await two.post("/login", data={"key": "good-key"})
            one.cookies.update(dict(two.cookies))
            assert len(two.cookies) == 2
            assert (await one.get("/")).text == SECRET
            assert (await two.get("/")).text == SECRET
