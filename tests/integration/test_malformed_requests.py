"""REST API: malformed paths, queries and bodies."""

from dataclasses import asdict

import pytest

from tests.integration.problems import ORDER_ROUTES, is_problem
from tests.live import LiveApi, body, new_id
from tests.orders import OTHER_ADDRESS

pytestmark = pytest.mark.stack


@pytest.mark.parametrize(("method", "route", "request_body"), ORDER_ROUTES)
def test_an_unknown_order_is_404(live: LiveApi, method: str, route: str, request_body: object) -> None:
    if route != "start":
        assert is_problem(live.http.request(method, f"/orders/{new_id()}/{route}", json=request_body), 404)


@pytest.mark.parametrize("order_id", ["a b", "a.b", "x" * 65, "%00", "a%0A", "é", "%27;--", "%ff"])
@pytest.mark.parametrize(("method", "route", "request_body"), ORDER_ROUTES)
def test_a_malformed_id_is_422(
    live: LiveApi, order_id: str, method: str, route: str, request_body: object
) -> None:
    assert is_problem(live.http.request(method, f"/orders/{order_id}/{route}", json=request_body), 422)


ITEM = {"sku": "A", "quantity": 1, "unit_price_cents": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial_address": None},
        {"initial_address": {}},
        {"initial_address": {"street": "s", "city": "c", "state": "s"}},
        {"initial_address": asdict(OTHER_ADDRESS) | {"region": "Midwest"}},
        {"initial_address": asdict(OTHER_ADDRESS) | {"country": "XX"}},
        {"initial_address": asdict(OTHER_ADDRESS) | {"country": None}},
        {"initial_address": {"street": "s", "city": "c", "zip": "z", "country": "CA"}},
        {"initial_address": asdict(OTHER_ADDRESS) | {"zip": 62701}},
        {"initial_address": asdict(OTHER_ADDRESS) | {"zip": ""}},
        {"initial_address": asdict(OTHER_ADDRESS) | {"zip": "   "}},
        {"initial_address": asdict(OTHER_ADDRESS) | {"zip": "1" * 201}},
        {"initial_address": asdict(OTHER_ADDRESS) | {"zip": "1\x002"}},
        {"initial_address": asdict(OTHER_ADDRESS) | {"zip": "1\n2"}},
        {"items": []},
        {"items": [ITEM] * 101},
        {"items": [ITEM | {"quantity": 0}]},
        {"items": [ITEM | {"quantity": -1}]},
        {"items": [ITEM | {"quantity": 1.5}]},
        {"items": [ITEM | {"quantity": "1"}]},
        {"items": [ITEM | {"quantity": True}]},
        {"items": [ITEM | {"quantity": 10**30}]},
        {"items": [ITEM | {"unit_price_cents": -1}]},
        {"items": [ITEM | {"unit_price_cents": 1.01}]},
        {"items": [ITEM | {"sku": ""}]},
        {"items": [ITEM | {"colour": "red"}]},
        {"payment_id": ""},
        {"payment_id": "p" * 201},
        {"review": "never"},
        {"run_id": "a b"},
        {"requested_at": 1_700_000_000},
        {"requested_at": "1700000000"},
        {"requested_at": "2026-01-01T00:00:00"},
        {"requested_at": "soon"},
        {"limit_seconds": 1},
    ],
)
def test_a_malformed_start_is_422_and_stores_nothing(live: LiveApi, wrong: dict[str, object]) -> None:
    order_id = new_id()
    response = live.http.post(f"/orders/{order_id}/start", json=body(**wrong))
    assert is_problem(response, 422)
    assert response.json()["errors"][0]["field"].startswith("body.")
    assert is_problem(live.http.get(f"/orders/{order_id}/history"), 404)


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b"[" * 60_000, "application/json"),
        (b'{"a":' * 10_000, "application/json"),
        (b'{"initial_address": "\xff"}', "application/json"),
        (b'{"\\ud800": 1}', "application/json"),
        (
            b'{"initial_address": {"street": "\\ud800", "city": "c", "state": "s", "zip": "z"}}',
            "application/json",
        ),
        (b'{"initial_address": NaN}', "application/json"),
        (b'{"items": [{"sku": "a", "quantity": 1' + b"0" * 5_000 + b"}]}", "application/json"),
    ],
)
def test_an_unreadable_body_is_422(live: LiveApi, content: bytes, media_type: str) -> None:
    for route in ("start", "signals/cancel"):
        response = live.http.post(
            f"/orders/{new_id()}/{route}", content=content, headers={"content-type": media_type}
        )
        assert is_problem(response, 422)


@pytest.mark.parametrize(
    ("name", "request_body"),
    [
        ("cancel", {}),
        ("cancel", {"reason": "r"}),
        ("cancel", {"reason": "", "cancelled_by": "c"}),
        ("cancel", {"reason": "r" * 201, "cancelled_by": "c"}),
        ("cancel", {"reason": "r", "cancelled_by": "c", "force": True}),
        ("update-address", {"new_address": {"street": "s"}, "updated_by": "c"}),
        ("update-address", {"new_address": asdict(OTHER_ADDRESS)}),
        ("approve", {"reviewer": 7}),
        ("reject", {"reviewer": "r"}),
    ],
)
def test_a_malformed_request_is_422_and_stores_nothing(
    live: LiveApi, name: str, request_body: dict[str, object]
) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    before = live.history(order_id)
    assert is_problem(live.signal(order_id, name, **request_body), 422)
    assert live.history(order_id) == before
    live.signal(order_id, "cancel", reason="test is over", cancelled_by="test")


def test_a_large_body_is_413_with_and_without_content_length(live: LiveApi) -> None:
    large = b" " * (64 * 1024) + b"x"
    headers = {"content-type": "application/json"}
    url = f"/orders/{new_id()}/start"
    assert is_problem(live.http.post(url, content=large, headers=headers), 413)
    chunked = iter([large[:40_000], large[40_000:]])
    assert is_problem(live.http.post(url, content=chunked, headers=headers), 413)
    largest = b" " * (64 * 1024 - 2) + b"{}"
    assert is_problem(live.http.post(url, content=largest, headers=headers), 422)


@pytest.mark.parametrize(
    "url",
    [
        "/orders?limit=0",
        "/orders?limit=501",
        "/orders?limit=x",
        "/orders?state=lost",
        "/orders?run_id=a%20b",
        "/orders?cursor=abc",
        "/orders?cursor=bnVsbA",
        "/orders?sort=asc",
        "/latency?since=yesterday",
        "/latency.csv?until=2026-01-01",
        "/orders/x/status?wait=-1",
        "/orders/x/status?wait=nan",
        "/orders/x/status?wait=soon",
        "/audit?run_id=%00",
        "/latency?run_id=a&run_id=b",
        "/latency.csv?sinse=2026-01-01T00:00:00Z",
        "/latency?since=2026-01-01T00:00:00",
        "/latency?since=1767225600",
        "/orders?state=completed&state=failed",
    ],
)
def test_a_malformed_query_is_422(live: LiveApi, url: str) -> None:
    assert is_problem(live.http.get(url), 422)


@pytest.mark.parametrize(
    "since",
    [
        "2030-01-01T00:00:00Z",
        "2030-01-01t00:00:00z",
        "2030-01-01T00:00:00.000000000Z",
        "2030-01-01T02:00:00+02:00",
        "2030-01-01T02:00:00%2B02:00",
    ],
)
def test_every_rfc_3339_time_is_understood(live: LiveApi, since: str) -> None:
    # As typed in an address, where + means a space.
    response = live.http.get(f"{live.url}/latency?since={since}")
    assert (response.status_code, response.json()["since"]) == (200, "2030-01-01T00:00:00.000Z")
    assert live.http.get(f"{live.url}/latency.csv?since={since}").text.count("\n") == 1


def test_unknown_paths_and_methods_are_problem_documents(live: LiveApi) -> None:
    assert is_problem(live.http.get("/nothing/here"), 404)
    assert is_problem(live.http.get("/orders/a/b/status"), 404)
    wrong_method = live.http.delete("/orders")
    assert is_problem(wrong_method, 405)
    assert wrong_method.headers["allow"] == "GET, HEAD"
