"""The dashboard's API client: errors, health reports, and the names with which requests are signed."""

import json
from collections.abc import Callable

import httpx
import pytest

from dashboard.data.order_api import OrderApi
from orchestrator.errors import AddressOutdated, OrderUnknown, RequestMalformed, ServiceUnavailable
from orchestrator.rest_client import ApiUnavailable
from tests.ports import free_port_base


def api_returning(status: int, body: object) -> OrderApi:
    api = OrderApi("http://api")
    api._http = httpx.Client(
        base_url="http://api", transport=httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    )
    return api


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, OrderUnknown),
        (422, RequestMalformed),
        (503, ServiceUnavailable),
        (500, ServiceUnavailable),
    ],
)
def test_a_problem_document_becomes_an_error_with_its_detail(status, error):
    with pytest.raises(error, match="this is why"):
        api_returning(status, {"detail": "this is why"}).cancel("o", "r", "me")


def test_an_outdated_address_is_not_too_late():
    problem = {"type": "urn:problem:address-outdated", "detail": "the address has changed"}
    with pytest.raises(AddressOutdated, match="has changed"):
        api_returning(409, problem).change_address("o", {}, "me", 1)


def test_an_error_without_a_problem_document_has_a_message():
    with pytest.raises(ServiceUnavailable, match="HTTP status 500"):
        api_returning(500, ["nothing"]).approve("o", "me")


def test_an_unhealthy_report_is_returned():
    assert api_returning(503, {"status": "unhealthy"}).health() == {"status": "unhealthy"}


def test_a_refused_connection_raises_api_unavailable():
    with pytest.raises(ApiUnavailable):
        OrderApi(f"http://127.0.0.1:{free_port_base()}").health()


REQUESTS: dict[str, tuple[str, Callable[[OrderApi], object]]] = {
    "cancel": ("cancelled_by", lambda api: api.cancel("o", "late", "typed")),
    "update-address": ("updated_by", lambda api: api.change_address("o", {"city": "Bonn"}, "typed", 1)),
    "approve": ("reviewer", lambda api: api.approve("o", "typed")),
    "reject": ("reviewer", lambda api: api.reject("o", "typed", "fraud")),
}


@pytest.mark.parametrize("signal", REQUESTS)
@pytest.mark.parametrize(("key", "signed"), [("key-of-ada", "ada"), (None, "typed")])
def test_a_request_is_signed_with_the_name_of_the_key(signal: str, key: str | None, signed: str):
    sent = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/whoami":
            assert request.headers["authorization"] == "Bearer key-of-ada"
            return httpx.Response(200, json={"name": "ada", "role": "operator"})
        sent.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json={})

    api = OrderApi("http://api")
    api._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(respond))
    field, send = REQUESTS[signal]
    send(api.with_key(key))
    ((path, body),) = sent
    assert (path, body[field]) == (f"/orders/o/signals/{signal}", signed)
