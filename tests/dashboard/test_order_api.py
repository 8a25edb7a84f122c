"""The dashboard's API client: errors and health reports."""

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
