"""REST API: media types, HEAD, OPTIONS, trailing slashes, and messages of malformed fields."""

import json
from dataclasses import asdict

import pytest

from tests.integration.problems import is_problem
from tests.live import LiveApi, body, new_id
from tests.orders import OTHER_ADDRESS

pytestmark = pytest.mark.stack

START = json.dumps(body()).encode()


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_a_body_that_is_not_declared_as_json_is_415(live: LiveApi, media_type: str | None) -> None:
    headers = {} if media_type is None else {"content-type": media_type}
    order_id = new_id()
    for method, path in (
        ("POST", f"/orders/{order_id}/start"),
        ("POST", f"/orders/{order_id}/signals/cancel"),
        ("POST", "/codec/decode"),
        ("PUT", "/faults"),
    ):
        response = live.http.request(method, path, content=START, headers=headers)
        assert is_problem(response, 415)
        assert "Content-Type: application/json" in response.json()["detail"]
    assert is_problem(live.http.get(f"/orders/{order_id}/history"), 404)


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "application/problem+json"])
def test_every_json_media_type_is_accepted(live: LiveApi, media_type: str) -> None:
    headers = {"content-type": media_type}
    response = live.http.post(f"/orders/{new_id()}/start", content=START, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/health", "/orders", "/faults", "/latency", "/latency.csv", "/metrics", "/whoami", "/openapi.json"],
)
def test_head_returns_the_headers_of_get(live: LiveApi, path: str) -> None:
    got, headed = live.http.get(path), live.http.head(path)
    assert (headed.status_code, headed.content) == (got.status_code, b"")
    assert headed.headers["content-type"] == got.headers["content-type"]
    assert live.http.head("/nothing/here").status_code == 404


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/health", {"GET", "HEAD"}), ("/faults", {"GET", "HEAD", "PUT"}), ("/orders/a/start", {"POST"})],
)
def test_another_method_is_405_with_the_allowed_ones(live: LiveApi, path: str, methods: set[str]) -> None:
    for method in ("OPTIONS", "DELETE", "PATCH"):
        response = live.http.request(method, path)
        assert is_problem(response, 405)
        assert set(response.headers["allow"].split(", ")) == methods


def test_a_trailing_slash_makes_no_difference(live: LiveApi) -> None:
    assert live.http.get("/health/").status_code == 200
    order_id = new_id()
    assert live.http.post(f"/orders/{order_id}/start/", json=body()).status_code == 200
    assert live.http.get(f"/orders/{order_id}/status/").json()["order_id"] == order_id


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("street", "1\x00Main", "street contains control characters"),
        ("street", "", "street is empty"),
        ("street2", "\x85", "street2 contains control characters"),
        ("city", "a\u2028b", "city contains control characters"),
        ("zip", "1\n2", "zip contains control characters"),
        ("zip", "", "zip is missing"),
        ("state", " ", "state is missing"),
        ("country", "Singapore", "country must be a two-letter code of ISO 3166"),
    ],
)
def test_a_wrong_part_of_an_address_is_named_in_a_sentence(
    live: LiveApi, part: str, value: str, message: str
) -> None:
    address = asdict(OTHER_ADDRESS) | {part: value}
    for path, content in (
        ("start", {"initial_address": address}),
        ("signals/update-address", {"new_address": address, "updated_by": "me"}),
    ):
        response = live.http.post(f"/orders/{new_id()}/{path}", json=content)
        assert is_problem(response, 422)
        assert message in response.json()["detail"]
        assert response.json()["errors"][0]["field"].endswith(f"_address.{part}")
        assert not set("^$\\") & set(response.json()["detail"])


@pytest.mark.parametrize("path", ["/orders/a b/status", "/orders?cursor=x", "/orders?run_id=a+b"])
def test_no_message_has_a_regular_expression(live: LiveApi, path: str) -> None:
    response = live.http.get(path)
    assert is_problem(response, 422)
    assert "pattern" not in response.text
    assert "must be" in response.json()["detail"]


@pytest.mark.parametrize(
    "address",
    [
        {"street": "1 Raffles Place", "city": "Singapore", "zip": "048616", "country": "SG"},
        {"street": "8 Queen's Road", "city": "Hong Kong", "state": "", "zip": None, "country": "HK"},
        {
            "street": "10 Downing St",
            "street2": "Flat 2",
            "city": "London",
            "zip": "SW1A 2AA",
            "country": "gb",
        },
        {"street": "千代田1-1", "city": "東京", "state": "東京都", "zip": "100-0001", "country": "JP"},
    ],
)
def test_addresses_of_other_countries_are_delivered(live: LiveApi, address: dict[str, str | None]) -> None:
    order_id = live.start(initial_address=address)
    status = live.finished(order_id)
    assert status["status"] == "completed"
    stored = live.history(order_id)[0]["detail"]["address"]
    assert stored["country"] == str(address["country"]).upper()
    assert stored.get("street2") == address.get("street2")
    assert status["address"] == {"street2": ""} | stored


def test_the_same_address_in_another_normalization_is_the_same_order(live: LiveApi) -> None:
    order_id = new_id()
    for number, street in enumerate(("Rämistraße 1", "Ra\u0308mistraße 1")):
        content = body(initial_address={"street": street, "city": "Zürich", "zip": "8001", "country": "CH"})
        response = live.http.post(f"/orders/{order_id}/start", json=content)
        assert (response.status_code, response.json()["status"]) == (
            200,
            ("started", "already_started")[number],
        )
