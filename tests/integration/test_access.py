"""API keys: roles, keyless access, bind addresses, and where a key must never appear."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
import pytest_asyncio

from db import api_keys
from db.domain import RequestResult, State
from db.read_only_database import ROLE
from orchestrator.api.app import create_app
from orchestrator.api.order_service import OrderService
from orchestrator.api.order_updates import Request
from orchestrator.security.key_hashing import Role, hash_key, new_key
from orchestrator.settings import Settings
from tests.live import body, eventually
from tests.ports import free_port_base
from tests.servers import PostgresServer

NOBODY_LISTENS = "127.0.0.1:1"

ROUTES = [
    ("GET", "/orders", None, Role.VIEWER),
    ("GET", "/orders/a/status", None, Role.VIEWER),
    ("GET", "/orders/a/history", None, Role.VIEWER),
    ("GET", "/latency", None, Role.VIEWER),
    ("GET", "/latency.csv", None, Role.VIEWER),
    ("GET", "/audit", None, Role.VIEWER),
    ("GET", "/faults", None, Role.VIEWER),
    ("GET", "/metrics", None, Role.VIEWER),
    ("GET", "/whoami", None, Role.VIEWER),
    ("GET", "/docs", None, Role.VIEWER),
    ("GET", "/openapi.json", None, Role.VIEWER),
    ("GET", "/nothing/here", None, Role.VIEWER),
    ("POST", "/orders/a/start", body(), Role.OPERATOR),
    ("POST", "/orders/a/signals/cancel", {"reason": "r", "cancelled_by": "c"}, Role.OPERATOR),
    ("POST", "/orders/a/signals/update-address", {}, Role.OPERATOR),
    ("POST", "/orders/a/signals/approve", {"reviewer": "r"}, Role.OPERATOR),
    ("POST", "/orders/a/signals/reject", {"reviewer": "r", "reason": "r"}, Role.OPERATOR),
    ("POST", "/codec/decode", {"payloads": []}, Role.OPERATOR),
    ("POST", "/codec/encode", {"payloads": []}, Role.OPERATOR),
    ("POST", "/nothing/here", {}, Role.OPERATOR),
    ("PUT", "/faults", {"profile": "none"}, Role.CHAOS),
]


def settings(url: str, **others: object) -> Settings:
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        database_url=url,
        temporal_address=NOBODY_LISTENS,
        **others,  # type: ignore[arg-type]
    )


def make_key(url: str, name: str, role: str) -> str:
    key = new_key()
    assert api_keys.add(url, hash_key(key), name, role)
    return key


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.fresh_database() as fresh:
        yield fresh


@pytest_asyncio.fixture
async def api(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with served_api(settings(url)) as client:
        yield client


class served_api:
    """An API in this process."""

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings)

    async def __aenter__(self) -> httpx.AsyncClient:
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self._app), base_url="http://127.0.0.1", timeout=20
        )
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._lifespan.__aexit__(None, None, None)


async def until_key_required(api: httpx.AsyncClient) -> None:
    """Wait until the API has read the first key."""
    not_after = time.monotonic() + 60
    while (await api.get("/whoami")).status_code != 401:
        assert time.monotonic() < not_after
        await asyncio.sleep(0.05)


# --- Roles ---


async def test_without_any_key_every_request_is_allowed(api: httpx.AsyncClient) -> None:
    assert (await api.get("/whoami")).json() == {"name": None, "role": "chaos"}
    assert (await api.put("/faults", json={"profile": "none"})).status_code == 200


SIGNALS: dict[str, tuple[str, dict[str, object]]] = {
    "cancel": ("cancelled_by", {"reason": "r"}),
    "update-address": ("updated_by", {"new_address": body()["initial_address"]}),
    "approve": ("reviewer", {}),
    "reject": ("reviewer", {"reason": "r"}),
}


@pytest.mark.parametrize("has_key", [True, False])
async def test_a_request_is_signed_with_the_name_of_its_key(
    api: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch, has_key: bool
) -> None:
    signed = []

    async def send_request(_: object, order_id: str, request: Request, key: str | None) -> RequestResult:
        signed.append(request)
        return RequestResult(accepted=True, state=State.RECEIVED, message="")

    monkeypatch.setattr(OrderService, "send_request", send_request)
    headers = bearer(make_key(url, "ada", "operator")) if has_key else {}
    if has_key:
        await until_key_required(api)
    for signal, (field, content) in SIGNALS.items():
        path = f"/orders/a/signals/{signal}"
        response = await api.post(path, json=content | {field: "typed"}, headers=headers)
        assert response.status_code == 200, response.text
        assert getattr(signed[-1], field) == ("ada" if has_key else "typed")


async def test_without_any_key_a_request_with_another_host_is_rejected(
    api: httpx.AsyncClient, url: str
) -> None:
    rebound = {"Host": "evil.example:8000"}
    for method, path in (("GET", "/orders"), ("PUT", "/faults"), ("GET", "/nothing/here")):
        response = await api.request(method, path, headers=rebound)
        assert (response.status_code, response.headers["content-type"]) == (421, "application/problem+json")
    key = make_key(url, "ada", "viewer")
    await until_key_required(api)
    through_a_proxy = await api.get("/orders", headers=rebound | bearer(key))
    assert through_a_proxy.status_code == 200


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "Via", "X-Real-IP"])
async def test_without_any_key_a_forwarded_request_is_rejected(
    api: httpx.AsyncClient, url: str, header: str
) -> None:
    for method, path in (("GET", "/orders"), ("PUT", "/faults"), ("POST", "/orders/a/start")):
        response = await api.request(method, path, headers={header: "for=192.0.2.1"})
        assert (response.status_code, response.headers["content-type"]) == (401, "application/problem+json")
        assert "Create a key" in response.json()["detail"]
    key = make_key(url, "ada", "viewer")
    await until_key_required(api)
    assert (await api.get("/orders", headers={header: "192.0.2.1"} | bearer(key))).status_code == 200


async def test_each_role_is_allowed_its_routes_only(api: httpx.AsyncClient, url: str) -> None:
    keys = {role: make_key(url, role.word, role.word) for role in Role}
    await until_key_required(api)
    for method, path, request, required in ROUTES:
        without_key = await api.request(method, path, json=request)
        assert (without_key.status_code, without_key.headers["www-authenticate"]) == (
            401,
            'Bearer realm="orders"',
        ), path
        assert without_key.headers["content-type"] == "application/problem+json"
        for token in (new_key(), "", "x", hash_key(keys[Role.CHAOS]), keys[Role.CHAOS][:-1]):
            wrong = await api.request(method, path, json=request, headers=bearer(token))
            assert wrong.status_code == 401, (path, token)
        for role, key in keys.items():
            response = await api.request(method, path, json=request, headers=bearer(key))
            if role >= required:
                assert response.status_code not in (401, 403), (method, path, role)
            else:
                assert response.status_code == 403, (method, path, role)
                assert f'scope="{required.word}"' in response.headers["www-authenticate"]


async def test_a_key_is_accepted_as_a_bearer_token_only(api: httpx.AsyncClient, url: str) -> None:
    key = make_key(url, "ada", "chaos")
    await until_key_required(api)
    for headers in (
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
        {"Authorization": "Bearer"},
        {"X-API-Key": key},
        {"Cookie": f"api_key={key}"},
    ):
        assert (await api.get("/whoami", headers=headers)).status_code == 401, headers
    assert (await api.get("/whoami", params={"api_key": key})).status_code == 401
    assert (await api.get("/whoami", headers={"Authorization": f"bearer  {key}"})).status_code == 200


async def test_health_requires_no_key_and_has_five_fields(api: httpx.AsyncClient, url: str) -> None:
    make_key(url, "ada", "viewer")
    await until_key_required(api)
    response = await api.get("/health")
    assert response.status_code == 503
    assert set(response.json()) == {
        "status", "timestamp", "temporal_connected", "database_connected", "workers_healthy",
    }  # fmt: skip


async def test_a_revoked_key_is_rejected_within_seconds_and_a_key_stays_required(
    api: httpx.AsyncClient, url: str
) -> None:
    key = make_key(url, "ada", "chaos")
    await until_key_required(api)
    assert (await api.get("/whoami", headers=bearer(key))).json() == {"name": "ada", "role": "chaos"}
    assert api_keys.revoke(url, "ada")
    revoked_at = time.monotonic()
    while (await api.get("/whoami", headers=bearer(key))).status_code != 401:
        assert time.monotonic() - revoked_at < 10
        await asyncio.sleep(0.05)
    assert (await api.get("/orders")).status_code == 401, "a key stays required after the last one is revoked"


@pytest.mark.parametrize("others", [{"auth": "required"}, {"bind_address": "192.0.2.1"}])
async def test_a_key_is_required_although_none_exists(url: str, others: dict[str, str]) -> None:
    async with served_api(settings(url, **others)) as api:
        await until_key_required(api)
        assert (await api.get("/orders")).status_code == 401


async def test_every_request_is_rejected_while_the_keys_cannot_be_read(tmp_path: Path) -> None:
    async with served_api(settings(f"postgresql://postgres@/orders?host={tmp_path}")) as api:
        for headers in ({}, bearer(new_key())):
            for path in ("/orders", "/metrics", "/openapi.json"):
                response = await api.get(path, headers=headers)
                assert response.status_code == 503, path
                assert response.headers["retry-after"] == "1"


# --- Storage and bind addresses ---


def command(url: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"DATABASE_URL": url, "TEMPORAL_ADDRESS": NOBODY_LISTENS} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_key_is_shown_once_and_stored_as_a_hash(url: str) -> None:
    keys = ("-m", "orchestrator", "keys")
    added = command(url, *keys, "add", "ada", "--role", "operator", "--json")
    assert added.returncode == 0, added.stderr
    key = json.loads(added.stdout)["key"]
    listed = command(url, *keys, "list", "--json")
    assert [
        (each["name"], each["role"], each["revoked_at"]) for each in json.loads(listed.stdout)["keys"]
    ] == [("ada", "operator", None)]
    assert key not in listed.stdout
    with psycopg.connect(url) as connection:
        rows = connection.execute("select to_jsonb(k)::text from api_keys k").fetchall()
    assert key not in str(rows)
    assert hash_key(key) in str(rows)
    for words, sentence in (
        (("add", "ada", "--role", "viewer"), "A key named ada exists already"),
        (("add", "bob", "--role", "root"), "Unknown role 'root'"),
        (("add", "a b", "--role", "viewer"), "A key's name has"),
        (("revoke", "bob"), "There is no valid key named bob"),
    ):
        failed = command(url, *keys, *words)
        assert (failed.returncode, sentence in failed.stderr) == (2, True), failed.stderr
    assert command(url, *keys, "revoke", "ada").returncode == 0
    assert command(url, *keys, "add", "ada", "--role", "viewer").returncode == 0, "the name is free again"


def test_a_deployment_adds_its_key_from_the_environment(url: str) -> None:
    words = ("-m", "orchestrator", "keys", "add", "deployment", "--role", "chaos", "--from-environment")
    key = new_key()
    for _ in range(2):
        added = command(url, *words, API_KEY=key)
        assert (added.returncode, key in added.stdout + added.stderr) == (0, False), added.stderr
    assert [(each.name, each.role) for each in api_keys.list_keys(url)] == [("deployment", "chaos")]
    assert command(url, *words, API_KEY=f" {key}\r\n").returncode == 0
    for wrong in ("", "secret", key[:-1], f'"{key}"', f"{key} {key}", f"{key}é"):
        refused = command(url, *words, API_KEY=wrong)
        assert (refused.returncode, refused.stderr.count("\n"), key[:-1] in refused.stderr) == (2, 1, False)
    assert api_keys.revoke(url, "deployment")
    assert "is revoked" in command(url, *words, API_KEY=key).stderr


def test_the_reader_role_sees_no_hashes_but_whether_a_key_exists(url: str) -> None:
    make_key(url, "ada", "viewer")
    with psycopg.connect(url, options=f"-c role={ROLE}") as connection:
        assert connection.execute("select api_key_exists()").fetchone() == (True,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from api_keys")


COMPONENTS = {
    "the API": ("-m", "orchestrator.processes", "api"),
    "the dashboard": ("-m", "dashboard"),
    "the web UI of the load tests": ("-m", "locust", "-f", "loadtest/locustfile.py"),
    "the worker's metrics": ("-m", "orchestrator.processes", "worker", "order"),
}


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_component_listens_beyond_loopback_without_keys(url: str, component: str) -> None:
    failed = command(url, *COMPONENTS[component], BIND_ADDRESS="0.0.0.0", PORT_BASE=str(free_port_base()))
    assert failed.returncode == 2, failed.stderr
    assert f"{component} cannot listen on 0.0.0.0 without API keys" in failed.stderr
    assert failed.stderr.count("\n") <= 3, "no traceback; Locust prints two lines before"


def test_a_database_without_the_migrations_has_no_keys(postgres: PostgresServer) -> None:
    with postgres.fresh_database(template="template0") as empty:
        assert not api_keys.exists(empty)


@contextmanager
def started(url: str, component: str, log: Path, **environment: str) -> Iterator[int]:
    """Start a component as a process. Yields its PORT_BASE."""
    port = free_port_base()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *COMPONENTS[component]],
            env=os.environ
            | {"DATABASE_URL": url, "TEMPORAL_ADDRESS": NOBODY_LISTENS, "PORT_BASE": str(port)}
            | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)


def responses(address: str, **options: object) -> httpx.Response | None:
    try:
        return httpx.get(address, trust_env=False, timeout=5, **options)  # type: ignore[arg-type]
    except httpx.TransportError:
        return None


def test_pages_require_a_key_and_no_log_contains_one(url: str, tmp_path: Path) -> None:
    viewer, operator = make_key(url, "ada", "viewer"), make_key(url, "bob", "operator")
    wrong = new_key()
    logs = [tmp_path / f"{name}.log" for name in ("api", "dashboard", "locust")]
    # With keys, the API may listen on every address.
    with (
        started(url, "the API", logs[0], BIND_ADDRESS="0.0.0.0", LOG_LEVEL="DEBUG") as port,
        started(url, "the dashboard", logs[1], API_URL=f"http://127.0.0.1:{port}") as dashboard,
        started(url, "the web UI of the load tests", logs[2], API_URL=f"http://127.0.0.1:{port}") as locust,
    ):
        api = f"http://127.0.0.1:{port}"
        eventually(lambda: responses(f"{api}/health"))
        assert httpx.get(f"{api}/orders").status_code == 401
        assert httpx.get(f"{api}/orders", headers=bearer(viewer)).status_code == 200
        assert httpx.get(f"{api}/orders?key={wrong}", headers=bearer(wrong)).status_code == 401
        too_large = httpx.post(f"{api}/orders/a/start", content=b"x" * 100_000, headers=bearer(operator))
        assert too_large.status_code == 413
        as_json = bearer(operator) | {"Content-Type": "application/json"}
        malformed = httpx.post(f"{api}/orders/a/start", content=operator.encode(), headers=as_json)
        assert malformed.status_code == 422
        assert operator not in malformed.text

        page = f"http://127.0.0.1:{dashboard + 1}"
        eventually(lambda: (found := responses(f"{page}/_stcore/health")) and found.status_code == 200)
        eventually(lambda: (found := responses(page)) and found.status_code == 401)
        for path in ("/orders", "/export/latency.csv", "/static/nothing.js", "/_stcore/host-config"):
            assert httpx.get(page + path).status_code == 401, path
        assert httpx.post(f"{page}/login", data={"key": wrong}).status_code == 401
        with httpx.Client(base_url=page) as browser:
            login = browser.post("/login", data={"key": viewer})
            assert login.status_code == 303
            assert "HttpOnly" in login.headers["set-cookie"]
            assert viewer not in str(login.headers)
            assert browser.get("/").status_code == 200
            assert browser.get("/export/latency.csv").text.startswith("order_id,")
            assert api_keys.revoke(url, "ada")
            eventually(lambda: browser.get("/export/latency.csv").status_code == 401, seconds=10)

        tests = f"http://127.0.0.1:{locust + 2}"
        eventually(lambda: responses(f"{tests}/alive"))
        eventually(lambda: (found := responses(f"{tests}/verdict.json")) and found.status_code == 401)
        for path in ("/", "/stats/requests", "/verdict.json", "/stats/report"):
            assert httpx.get(tests + path).status_code == 401, path
        also_viewer = make_key(url, "eve", "viewer")
        assert eventually(lambda: httpx.get(tests, auth=("x", also_viewer)).status_code == 403)
        assert httpx.get(f"{tests}/verdict.json", auth=("x", operator)).status_code == 200
        cross_site = httpx.post(
            f"{tests}/swarm", data={}, auth=("x", operator), headers={"Origin": "http://evil.example"}
        )
        assert cross_site.status_code == 403
        for address in (api, page, tests):
            headers = httpx.get(f"{address}/alive").headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
    written = "".join(log.read_text() for log in logs)
    for key in (viewer, operator, also_viewer, wrong):
        assert key not in written
        assert hash_key(key) not in written
