"""The REST client: error mapping, API keys, query parameters and connection errors."""

from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI

from loadtest.generator.api_client import ApiClient
from orchestrator import rest_client
from orchestrator.api import problem_details
from orchestrator.api.schemas.requests import StartBody
from orchestrator.errors import (
    AddressOutdated,
    NotAllowed,
    OrderConflict,
    OrderUnknown,
    Overloaded,
    RequestMalformed,
    RequestRejected,
    RunUnknown,
    ServiceUnavailable,
    TooLate,
    UsageError,
)
from orchestrator.rest_client import ApiUnavailable, ResponseLost, RestClient, error_of
from orchestrator.security.key_hashing import Role
from orchestrator.security.role_cache import look_up_role
from tests.ports import free_port_base

Handler = Callable[[httpx.Request], httpx.Response]


def client_with(handler: Handler, api_key: str | None = None) -> RestClient:
    client = RestClient("http://api", api_key)
    client._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(handler))
    return client


@pytest.mark.parametrize(
    ("status", "path", "error_class"),
    [
        (401, "/whoami", NotAllowed),
        (403, "/faults", NotAllowed),
        (404, "/orders/a/status", OrderUnknown),
        (409, "/orders/a/start", RequestRejected),
        (413, "/orders/a/start", RequestMalformed),
        (422, "/orders/a/start", RequestMalformed),
        (429, "/orders/a/start", Overloaded),
        (418, "/orders/a/start", RequestRejected),
        (500, "/orders", ServiceUnavailable),
        (503, "/orders", ServiceUnavailable),
    ],
)
def test_an_error_status_raises_the_matching_error_with_the_detail(
    status: int, path: str, error_class: type[Exception]
) -> None:
    client = client_with(lambda _: httpx.Response(status, json={"detail": "the reason"}))
    with pytest.raises(error_class, match="the reason"):
        client.post(path, {})


@pytest.mark.parametrize("error", [OrderUnknown, RunUnknown, OrderConflict, TooLate, AddressOutdated])
async def test_the_client_raises_the_error_that_the_api_raised(error: type[RequestRejected]) -> None:
    app = FastAPI()
    problem_details.register(app)

    @app.get("/")
    async def fail() -> None:
        raise error("the reason")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        response = await client.get("/")
    raised = error_of(response)
    assert (type(raised), str(raised)) == (error, "the reason")


async def test_a_malformed_request_raises_an_error_with_the_message_of_each_field() -> None:
    app = FastAPI()
    problem_details.register(app)

    @app.post("/")
    async def start(body: StartBody) -> None: ...

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        address = {"street": "", "city": ""}
        response = await client.post("/", json={"initial_address": address})
    error = error_of(response)
    assert isinstance(error, RequestMalformed)
    assert error.fields.keys() == {"body.initial_address.street", "body.initial_address.city"}
    assert all(message in str(error) for message in error.fields.values())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "7"}, 7), ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 1), ({}, 1)],
)
def test_a_rejection_has_its_retry_after(headers: dict[str, str], seconds: int) -> None:
    client = client_with(lambda _: httpx.Response(429, json={"detail": "overloaded"}, headers=headers))
    with pytest.raises(Overloaded) as raised:
        client.post("/orders/a/start", {})
    assert raised.value.retry_after_seconds == seconds


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"title": "x"}'])
def test_the_error_names_the_status_if_the_response_has_no_detail(content: bytes) -> None:
    client = client_with(lambda _: httpx.Response(502, content=content))
    with pytest.raises(ServiceUnavailable, match="HTTP status 502"):
        client.get("/orders")


def test_clients_with_different_keys_share_connections() -> None:
    client = client_with(lambda request: httpx.Response(200, json=request.headers.get("authorization", "")))
    assert client.get("/orders") == ""
    assert client.with_key("ord_1").get("/orders") == "Bearer ord_1"
    assert client.get("/orders") == ""
    assert client.with_key("ord_1")._http is client._http


def test_a_query_omits_parameters_that_are_none() -> None:
    client = client_with(lambda request: httpx.Response(200, json=str(request.url)))
    assert client.get("/orders", run_id=None, limit=2) == "http://api/orders?limit=2"


def test_a_stream_raises_the_error_for_its_status() -> None:
    client = client_with(lambda _: httpx.Response(404, json={"detail": "no such run"}))
    with pytest.raises(OrderUnknown, match="no such run"), client.stream("/audit", run_id="x"):
        pass


@pytest.mark.parametrize("api_key", ["a\nb", "é", "a\x00", "a b", "a ", '"a"', ""])
def test_a_key_that_is_invalid_in_a_header_is_a_usage_error(api_key: str) -> None:
    with pytest.raises(UsageError, match="API_KEY"):
        RestClient("http://api", api_key)


@pytest.mark.parametrize("url", ["nonsense", "ftp://api", "http://api:port"])
def test_an_invalid_address_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="not the address of an API"), RestClient(url) as client:
        client.get("/orders")


def test_a_url_with_a_password_is_refused_without_quoting_it() -> None:
    for client in (RestClient, ApiClient):
        with pytest.raises(UsageError, match="must not contain a user or a password") as refused:
            client("http://user:secret@api")
        assert "secret" not in str(refused.value)


def test_a_refused_connection_raises_api_unavailable() -> None:
    url = f"http://127.0.0.1:{free_port_base()}"
    with RestClient(url) as client, pytest.raises(ApiUnavailable, match=f"no connection to the API at {url}"):
        client.get("/orders")
    with pytest.raises(ServiceUnavailable):
        look_up_role(url, "ord_1")


def test_the_timeout_error_names_the_api() -> None:
    def hang(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out", request=request)

    with pytest.raises(ServiceUnavailable, match="the API at http://api is not responding: timed out"):
        client_with(hang).get("/orders")


def test_a_post_whose_response_was_lost_is_repeated_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_client, "RETRY_PAUSES_SECONDS", (0.0, 0.0, 0.0))
    keys = []
    failures = [httpx.ReadError("reset"), httpx.ConnectError("refused"), httpx.RemoteProtocolError("closed")]

    def lose(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if failures:
            raise failures.pop(0)
        return httpx.Response(200, json={"accepted": True})

    client = client_with(lose)
    assert client.post("/orders/a/signals/cancel", {}) == {"accepted": True}
    assert (len(keys), len(set(keys))) == (4, 1)
    client.post("/orders/a/signals/cancel", {})
    assert len(set(keys)) == 2
    failures[:] = [httpx.ReadError("reset")] * 4
    with pytest.raises(ResponseLost, match="closed the connection without a response: reset"):
        client.post("/orders/a/signals/cancel", {})


def test_a_post_without_a_connection_is_not_repeated() -> None:
    calls = []

    def refuse(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        raise httpx.ConnectError("refused")

    with pytest.raises(ApiUnavailable):
        client_with(refuse).post("/orders/a/start", {})
    assert len(calls) == 1


def test_an_illegal_header_is_not_quoted() -> None:
    def illegal(_request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError("Illegal header value b'Bearer ord_secret '")

    with pytest.raises(UsageError) as refused:
        client_with(illegal).get("/orders")
    assert "ord_secret" not in str(refused.value)


def test_role_returns_the_role_of_the_key() -> None:
    client = client_with(lambda _: httpx.Response(200, json={"name": "ada", "role": "operator"}))
    assert client.role() is Role.OPERATOR
