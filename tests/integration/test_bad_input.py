"""Input that looks like SQL, a path, a formula or markup: rejected as an id, and stored as plain text."""

from dataclasses import asdict
from urllib.parse import quote

import pytest

from tests.integration.problems import ORDER_ROUTES, is_problem
from tests.live import LiveApi, body, new_id
from tests.orders import ADDRESS

pytestmark = pytest.mark.stack

HOSTILE = [
    "'; drop table orders; --",
    "1' or '1'='1",
    "a\\'--",
    "../../etc/passwd",
    "..\\..\\boot.ini",
    "%2e%2e",
    "=cmd|'/c calc'!A1",
    "@sum(1)",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "$(id)",
    "a\r\nX-Header: b",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc",
    "order\N{FULLWIDTH LOW LINE}1",
]


def newest(live: LiveApi) -> list[str]:
    return [order["order_id"] for order in live.http.get("/orders").json()["orders"]]


@pytest.mark.parametrize("order_id", HOSTILE)
def test_a_hostile_id_is_rejected_by_every_route_and_nothing_is_stored(live: LiveApi, order_id: str) -> None:
    before = newest(live)
    for method, route, request in ORDER_ROUTES:
        response = live.http.request(method, f"/orders/{quote(order_id, safe='')}/{route}", json=request)
        # A path with a further slash matches no route.
        assert is_problem(response, 404 if "/" in order_id else 422), order_id
        assert "script" not in response.headers["content-type"]
    for query in ({"run_id": order_id}, {"cursor": order_id}, {"state": order_id}):
        assert is_problem(live.http.get("/orders", params=query), 422)
    assert is_problem(live.http.get("/audit", params={"run_id": order_id}), 422)
    assert is_problem(live.http.post(f"/orders/{new_id()}/start", json=body(run_id=order_id)), 422)
    assert newest(live) == before


@pytest.mark.parametrize("text", [text for text in HOSTILE if text.isprintable()])
def test_hostile_text_is_stored_as_text(live: LiveApi, text: str) -> None:
    order_id = live.start(initial_address=asdict(ADDRESS) | {"street": text}, review="manual")
    live.in_state(order_id, "in_review")
    assert live.signal(order_id, "cancel", reason=text, cancelled_by=text).status_code == 200
    assert live.finished(order_id)["error"] == f"customer_cancelled: {text}"
    csv = live.http.get("/latency.csv").text
    assert not any(cell[:1] in "=@" for line in csv.splitlines() for cell in line.split(",") if cell)
