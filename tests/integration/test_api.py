"""The REST API of a running stack: every route as the contract has it."""

import csv
import io
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from orchestrator.api.schemas import responses
from tests.live import LiveApi, body, eventually, new_id
from tests.orders import OTHER_ADDRESS

pytestmark = pytest.mark.stack

STATUS_FIELDS = {
    "workflow_id", "order_id", "status", "state", "current_step", "completed_steps", "retries",
    "recent_errors", "result", "error", "reason", "created_at", "updated_at", "deadline_at", "completion_ms",
    "within_limit",
}  # fmt: skip

PARTS = ("receive", "validate", "review", "charge", "prepare", "dispatch", "compensate", "waiting")


def is_problem(answer: httpx.Response, status: int) -> bool:
    """Whether this is a problem document with this status, with nothing in it from inside."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = responses.Problem.model_validate(answer.json())
    for inner_word in ("Traceback", "psycopg", "select ", "postgresql://", "temporalio", "File "):
        assert inner_word not in answer.text
    return problem.status == status and bool(problem.detail)


# --- Starting -----------------------------------------------------------------------------------


def test_start_is_accepted_and_the_order_completes(live: LiveApi) -> None:
    order_id = new_id()
    items = [{"sku": "CUP-1", "quantity": 3, "unit_price_cents": 250}]
    answer = live.http.post(f"/orders/{order_id}/start", json=body(items=items)).json()
    assert answer["workflow_id"] == f"order-{order_id}"
    assert answer["order_id"] == order_id
    assert answer["status"] == "started"
    assert answer["message"]

    status = live.finished(order_id)
    assert status.keys() >= STATUS_FIELDS
    assert responses.OrderStatusResponse.model_validate(status)
    assert status["status"] == status["state"] == "completed"
    assert status["current_step"] is None
    assert status["completed_steps"] == [
        "receive", "validate", "review", "charge", "prepare", "dispatch", "finish",
    ]  # fmt: skip
    assert status["result"]["amount_cents"] == 750
    assert status["result"]["completion_ms"] == status["completion_ms"]
    assert status["result"]["tracking"]
    assert status["within_limit"] is True
    assert status["error"] is None
    assert status["reason"] is None
    created, deadline = (datetime.fromisoformat(status[name]) for name in ("created_at", "deadline_at"))
    assert deadline - created == timedelta(seconds=15)


def test_the_same_start_again_changes_nothing(live: LiveApi) -> None:
    order_id = live.start()
    for content in (body(), body(requested_at="2026-01-01T00:00:00Z"), body(run_id="other-run")):
        again = live.http.post(f"/orders/{order_id}/start", json=content)
        assert (again.status_code, again.json()["status"]) == (200, "already_started")
    live.finished(order_id)
    assert live.http.post(f"/orders/{order_id}/start", json=body()).json()["status"] == "already_started"
    assert [event["kind"] for event in live.history(order_id)].count("accepted") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"initial_address": asdict(OTHER_ADDRESS)},
        {"items": [{"sku": "X", "quantity": 1, "unit_price_cents": 1}]},
        {"payment_id": "another"},
        {"review": "manual"},
    ],
)
def test_the_same_id_with_other_content_is_refused(live: LiveApi, changes: dict[str, object]) -> None:
    order_id = live.start()
    assert is_problem(live.http.post(f"/orders/{order_id}/start", json=body(**changes)), 409)
    eventually(lambda: live.history(order_id))
    assert is_problem(live.http.post(f"/orders/{order_id}/start", json=body(**changes)), 409)


def test_of_many_equal_starts_at_once_one_starts(live: LiveApi) -> None:
    order_id = new_id()
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: httpx.post(f"{live.url}/orders/{order_id}/start", json=body()), range(8))
        )
    assert [answer.status_code for answer in answers] == [200] * 8
    assert sorted(answer.json()["status"] for answer in answers) == ["already_started"] * 7 + ["started"]
    live.finished(order_id)
    assert [event["kind"] for event in live.history(order_id)].count("accepted") == 1


def test_a_payment_belongs_to_one_order(live: LiveApi) -> None:
    owner = live.start(payment_id=f"pay-{(payment := new_id())}")
    live.finished(owner)
    thief = new_id()
    assert is_problem(live.http.post(f"/orders/{thief}/start", json=body(payment_id=f"pay-{payment}")), 409)
    assert is_problem(live.http.get(f"/orders/{thief}/status"), 404)


@pytest.mark.parametrize(
    ("requested_ago", "counted"), [(timedelta(seconds=5), 5_000), (timedelta(seconds=-60), 0)]
)
def test_time_counts_from_when_the_order_was_due(
    live: LiveApi, requested_ago: timedelta, counted: int
) -> None:
    run_id = new_id()
    due = (datetime.now(UTC) - requested_ago).isoformat()
    live.finished(live.start(run_id=run_id, requested_at=due))
    latency = live.http.get("/latency", params={"run_id": run_id}).json()
    assert counted <= latency["steps_ms"]["ingress"]["max"] < counted + 2_000


def test_an_order_long_overdue_still_comes_to_its_outcome(live: LiveApi) -> None:
    assert live.finished(live.start(requested_at="1970-01-01T00:00:00Z"))["status"] == "completed"


# --- Looking ------------------------------------------------------------------------------------


def test_wait_holds_the_answer_until_the_time_is_up(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    answer = live.http.get(f"/orders/{order_id}/status", params={"wait": 0.5})
    assert answer.json()["status"] == "running"
    assert 0.5 <= answer.elapsed.total_seconds() < 1.5
    live.signal(order_id, "reject", reviewer="r", reason="enough seen")


def test_wait_ends_with_the_outcome_for_everyone_who_waits(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    with ThreadPoolExecutor(5) as threads:
        waiting = [
            threads.submit(httpx.get, f"{live.url}/orders/{order_id}/status?wait=20", timeout=30)
            for _ in range(5)
        ]
        assert live.signal(order_id, "cancel", reason="enough", cancelled_by="test").status_code == 200
        outcomes = {answer.result().json()["status"] for answer in waiting}
    assert outcomes == {"cancelled"}
    assert all(answer.result().elapsed.total_seconds() < 10 for answer in waiting)


def test_history_tells_every_event_in_order(live: LiveApi) -> None:
    order_id = live.start()
    live.finished(order_id)
    answer = live.http.get(f"/orders/{order_id}/history").json()
    assert responses.HistoryResponse.model_validate(answer)
    events = answer["events"]
    assert (events[0]["kind"], events[-1]["kind"]) == ("accepted", "outcome")
    times = [event["at"] for event in events]
    assert times == sorted(times)
    assert len(set(times)) == len(times)
    assert {"receive", "validate", "charge", "prepare", "dispatch"} <= {
        event["step"] for event in events if event["outcome"] == "ok"
    }


def test_pages_of_the_list_hold_every_order_once(live: LiveApi) -> None:
    run_id = new_id()
    started = [live.start(run_id=run_id) for _ in range(5)]
    for order_id in started:
        live.finished(order_id)
    seen: list[str] = []
    cursor = None
    for _ in itertools.count():
        query = {"run_id": run_id, "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = live.http.get("/orders", params=query).json()
        assert responses.OrderListResponse.model_validate(page)
        seen += [order["order_id"] for order in page["orders"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == started[::-1]
    completed = live.http.get("/orders", params={"run_id": run_id, "state": "completed"}).json()
    assert len(completed["orders"]) == 5
    assert live.http.get("/orders", params={"run_id": run_id, "state": "failed"}).json()["orders"] == []


# --- Requests while an order runs ---------------------------------------------------------------


def test_a_cancelled_order_is_refused_everything_else(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    answer = live.signal(order_id, "cancel", reason="changed my mind", cancelled_by="customer")
    assert answer.status_code == 200
    assert responses.OrderRequestResponse.model_validate(answer.json())
    status = live.finished(order_id)
    assert (status["status"], status["reason"]) == ("cancelled", "customer_cancelled")
    assert status["error"] == "customer_cancelled: changed my mind"
    assert status["result"] is None
    before = live.history(order_id)
    for name, request in {
        "cancel": {"reason": "again", "cancelled_by": "customer"},
        "update-address": {"new_address": asdict(OTHER_ADDRESS), "updated_by": "customer"},
        "approve": {"reviewer": "r"},
        "reject": {"reviewer": "r", "reason": "late"},
    }.items():
        too_late = live.signal(order_id, name, **request)
        assert is_problem(too_late, 409)
        assert too_late.json()["detail"] == "too late: the order is cancelled"
    assert live.history(order_id) == before


def test_of_two_cancels_at_once_one_is_accepted(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    with ThreadPoolExecutor(2) as threads:
        answers = list(
            threads.map(
                lambda who: httpx.post(
                    f"{live.url}/orders/{order_id}/signals/cancel",
                    json={"reason": "twice", "cancelled_by": who},
                    timeout=20,
                ),
                ("one", "two"),
            )
        )
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    live.finished(order_id)
    assert [event["kind"] for event in live.history(order_id)].count("outcome") == 1


def test_an_accepted_address_is_on_the_label(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    answer = live.signal(order_id, "update-address", new_address=asdict(OTHER_ADDRESS), updated_by="customer")
    assert answer.status_code == 200
    assert live.signal(order_id, "approve", reviewer="r").status_code == 200
    assert live.finished(order_id)["status"] == "completed"
    dispatched = [event for event in live.history(order_id) if event["state"] == "dispatched"]
    assert dispatched[0]["detail"]["address_version"] == 2
    too_late = live.signal(
        order_id, "update-address", new_address=asdict(OTHER_ADDRESS), updated_by="customer"
    )
    assert is_problem(too_late, 409)


def test_an_approval_is_accepted_once(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    assert live.signal(order_id, "approve", reviewer="one").status_code == 200
    assert is_problem(live.signal(order_id, "approve", reviewer="two"), 409)
    assert is_problem(live.signal(order_id, "reject", reviewer="two", reason="late"), 409)
    assert live.finished(order_id)["status"] == "completed"


def test_a_rejected_order_is_cancelled_and_never_charged(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    assert live.signal(order_id, "reject", reviewer="r", reason="no such street").status_code == 200
    status = live.finished(order_id)
    assert (status["status"], status["reason"]) == ("cancelled", "review_rejected")
    assert status["error"] == "review_rejected: no such street"
    assert "charge" not in {event["step"] for event in live.history(order_id)}


# --- Malformed requests -------------------------------------------------------------------------

ORDER_ROUTES = [
    ("GET", "status", None),
    ("GET", "history", None),
    ("POST", "start", body()),
    ("POST", "signals/cancel", {"reason": "r", "cancelled_by": "c"}),
    ("POST", "signals/update-address", {"new_address": asdict(OTHER_ADDRESS), "updated_by": "c"}),
    ("POST", "signals/approve", {"reviewer": "r"}),
    ("POST", "signals/reject", {"reviewer": "r", "reason": "r"}),
]


@pytest.mark.parametrize(("method", "route", "request_body"), ORDER_ROUTES)
def test_an_unknown_order_is_not_found(live: LiveApi, method: str, route: str, request_body: object) -> None:
    if route != "start":
        assert is_problem(live.http.request(method, f"/orders/{new_id()}/{route}", json=request_body), 404)


@pytest.mark.parametrize("order_id", ["a b", "a.b", "x" * 65, "%00", "a%0A", "é", "%27;--", "%ff"])
@pytest.mark.parametrize(("method", "route", "request_body"), ORDER_ROUTES)
def test_a_malformed_id_is_refused(
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
        {"initial_address": asdict(OTHER_ADDRESS) | {"country": "US"}},
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
def test_a_malformed_start_is_refused_and_leaves_no_trace(live: LiveApi, wrong: dict[str, object]) -> None:
    order_id = new_id()
    answer = live.http.post(f"/orders/{order_id}/start", json=body(**wrong))
    assert is_problem(answer, 422)
    assert answer.json()["errors"][0]["field"].startswith("body.")
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
        (json.dumps(body()).encode(), "text/plain"),
        (b"a=1", "application/x-www-form-urlencoded"),
    ],
)
def test_an_unreadable_body_is_refused(live: LiveApi, content: bytes, media_type: str) -> None:
    for route in ("start", "signals/cancel"):
        answer = live.http.post(
            f"/orders/{new_id()}/{route}", content=content, headers={"content-type": media_type}
        )
        assert is_problem(answer, 422)


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
def test_a_malformed_signal_is_refused_and_leaves_no_trace(
    live: LiveApi, name: str, request_body: dict[str, object]
) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    before = live.history(order_id)
    assert is_problem(live.signal(order_id, name, **request_body), 422)
    assert live.history(order_id) == before
    live.signal(order_id, "cancel", reason="enough seen", cancelled_by="test")


def test_a_large_body_is_refused_announced_or_not(live: LiveApi) -> None:
    large = b" " * (64 * 1024) + b"x"
    headers = {"content-type": "application/json"}
    url = f"/orders/{new_id()}/start"
    assert is_problem(live.http.post(url, content=large, headers=headers), 413)
    in_chunks = iter([large[:40_000], large[40_000:]])
    assert is_problem(live.http.post(url, content=in_chunks, headers=headers), 413)
    just_fits = b" " * (64 * 1024 - 2) + b"{}"
    assert is_problem(live.http.post(url, content=just_fits, headers=headers), 422)


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
        "/faults/history?limit=0",
    ],
)
def test_a_malformed_query_is_refused(live: LiveApi, url: str) -> None:
    assert is_problem(live.http.get(url), 422)


def test_unknown_addresses_and_methods_are_problems_too(live: LiveApi) -> None:
    assert is_problem(live.http.get("/nothing/here"), 404)
    assert is_problem(live.http.get("/orders/a/b/status"), 404)
    wrong_method = live.http.delete("/orders")
    assert is_problem(wrong_method, 405)
    assert wrong_method.headers["allow"] == "GET"


# --- Operations ---------------------------------------------------------------------------------


def test_the_csv_splits_each_order_s_time_exactly(live: LiveApi) -> None:
    run_id = new_id()
    done = live.start(f"-{new_id()}", run_id=run_id)
    cancelled = live.start(run_id=run_id, review="manual")
    live.signal(cancelled, "cancel", reason="=1+1", cancelled_by="@me")
    live.finished(done)
    live.finished(cancelled)

    answer = live.http.get("/latency.csv", params={"run_id": run_id})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert answer.text.splitlines()[0] == (
        "order_id,run_id,scenario,outcome,reason,requested_at,accepted_at,finished_at,end_to_end_ms,"
        "completion_ms,within_limit,ingress_ms,receive_ms,validate_ms,review_ms,charge_ms,prepare_ms,"
        "dispatch_ms,compensate_ms,waiting_ms,attempts,failed_attempts,timed_out_attempts"
    )
    assert {row["order_id"] for row in rows} == {f"'{done}", cancelled}
    assert {row["outcome"] for row in rows} == {"completed", "cancelled"}
    for row in rows:
        assert sum(int(row[f"{part}_ms"]) for part in PARTS) == int(row["completion_ms"])
        assert int(row["ingress_ms"]) + int(row["completion_ms"]) == int(row["end_to_end_ms"])
        accepted, finished = (datetime.fromisoformat(row[name]) for name in ("accepted_at", "finished_at"))
        assert (finished - accepted) / timedelta(milliseconds=1) == int(row["completion_ms"])
        assert row["accepted_at"].endswith("Z")

    latency = live.http.get("/latency", params={"run_id": run_id}).json()
    assert responses.LatencyResponse.model_validate(latency)
    assert (latency["count"], latency["late"], latency["open"]) == (2, 0, 0)
    assert latency["completion_ms"]["max"] == max(int(row["completion_ms"]) for row in rows)
    assert latency["completion_ms"]["p50"] == min(int(row["completion_ms"]) for row in rows)


def test_latency_of_a_span_of_time(live: LiveApi) -> None:
    run_id = new_id()
    live.finished(live.start(run_id=run_id))
    now = datetime.now(UTC)
    for since, until, expected in [
        (now - timedelta(minutes=5), now + timedelta(minutes=5), 1),
        (now + timedelta(minutes=5), None, 0),
        (None, now - timedelta(minutes=5), 0),
    ]:
        span = {name: time.isoformat() for name, time in {"since": since, "until": until}.items() if time}
        latency = live.http.get("/latency", params={"run_id": run_id} | span).json()
        assert responses.LatencyResponse.model_validate(latency)
        assert latency["count"] == expected
        lines = live.http.get("/latency.csv", params={"run_id": run_id} | span).text.splitlines()
        assert len(lines) == 1 + expected


def test_faults_are_in_force_and_shown_live_while_an_order_runs(live: LiveApi) -> None:
    failing = {"default": {}, "steps": {"charge": {"error": 1.0}}}
    try:
        answer = live.http.put("/faults", json={"profile": "custom", "seed": 7, "rates": failing})
        assert answer.status_code == 200
        in_force = live.http.get("/faults").json()
        assert in_force == answer.json()
        assert responses.FaultsResponse.model_validate(in_force)
        assert (in_force["profile"], in_force["seed"]) == ("custom", 7)
        assert in_force["rates"]["steps"]["charge"]["error"] == 1.0

        time.sleep(1.0)  # by then it is in force at every worker
        order_id = live.start(review="manual")
        live.in_state(order_id, "in_review")
        live.signal(order_id, "approve", reviewer="r")
        status = eventually(lambda: (now := live.status(order_id))["retries"].get("charge", 0) >= 2 and now)
        assert (status["status"], status["current_step"]) == ("running", "charge")
        assert status["recent_errors"][0]["error"] == "charge failed (simulated)"
        assert status["recent_errors"][0]["outcome"] == "error"
        live.signal(order_id, "cancel", reason="enough seen", cancelled_by="test")
        assert live.finished(order_id)["status"] == "cancelled"
    finally:
        live.http.put("/faults", json={"profile": "none"})
    changes = live.http.get("/faults/history", params={"limit": 2}).json()["changes"]
    assert [change["profile"] for change in changes] == ["none", "custom"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"profile": "unknown"},
        {"profile": "custom"},
        {"profile": "none", "rates": {"default": {"error": 0.1}}},
        {"profile": "none", "seed": -1},
        {"profile": "none", "seed": 1.5},
        {"profile": "custom", "rates": {"default": {"error": 1.1}}},
        {"profile": "custom", "rates": {"default": {"error": 0.6, "hang": 0.6}}},
        {"profile": "custom", "rates": {"default": {"eror": 0.6}}},
        {"profile": "custom", "rates": {"default": {"slow_mean_ms": 0}}},
        {"profile": "custom", "rates": {"steps": {"review": {"error": 0.1}}}},
        {"profile": "custom", "rates": {"steps": {"refund": {"decline": 0.1}}, "default": 3}},
    ],
)
def test_malformed_faults_are_refused(live: LiveApi, wrong: dict[str, object]) -> None:
    before = live.http.get("/faults").json()
    assert is_problem(live.http.put("/faults", json=wrong), 422)
    assert live.http.get("/faults").json() == before


def test_audit_over_everything_and_over_a_run(live: LiveApi) -> None:
    run_id = new_id()
    live.finished(live.start(run_id=run_id))
    report = eventually(
        lambda: (
            (now := live.http.get("/audit", params={"run_id": run_id}).json())["workflows_checked"] and now
        )
    )
    assert responses.AuditResponse.model_validate(report)
    assert report["clean"]
    assert (report["judged"], report["open"], report["violations"]) == (1, 0, [])
    assert [invariant["number"] for invariant in report["invariants"]] == list(range(1, 10))
    with live.http.stream("GET", "/audit?progress=true") as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert all("workflows_checked" in line for line in lines[:-1])
    assert lines[-1]["report"]["clean"]


def test_there_is_no_audit_of_a_run_that_nobody_knows(live: LiveApi) -> None:
    unknown = {"run_id": new_id()}
    answer = live.http.get("/audit", params=unknown)
    assert is_problem(answer, 404)
    detail = answer.json()["detail"]
    assert unknown["run_id"] in detail
    with live.http.stream("GET", "/audit", params=unknown | {"progress": "true"}) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert lines == [{"problem": {"status": 404, "detail": detail}}]


def test_health_is_real(live: LiveApi) -> None:
    answer = live.http.get("/health")
    assert answer.status_code == 200
    health = answer.json()
    age = datetime.now(UTC) - datetime.fromisoformat(health.pop("timestamp"))
    assert timedelta(0) <= age < timedelta(seconds=3)
    assert health == {
        "status": "healthy",
        "temporal_connected": True,
        "database_connected": True,
        "workers_healthy": True,
    }


def test_metrics_count_orders_and_requests_by_route(live: LiveApi) -> None:
    live.finished(live.start())
    answer = live.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "database_connected 1.0" in answer.text
    assert 'orders_finished_total{outcome="completed"}' in answer.text
    assert 'order_attempts_total{outcome="ok"}' in answer.text
    assert 'route="/orders/{order_id}/start",status="200"' in answer.text
    assert 'route="/orders/{order_id}/status?wait",status="200"' in answer.text


def test_openapi_documents_every_answer(live: LiveApi) -> None:
    document = live.http.get("/openapi.json").json()
    assert document["components"]["schemas"]["Problem"]
    assert "HTTPValidationError" not in json.dumps(document)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            assert "200" in answers, (method, path)
            for status in set(answers) - {"200"}:
                assert list(answers[status]["content"]) == [
                    "application/json" if path == "/health" else "application/problem+json"
                ]
    assert "swagger" in live.http.get("/docs").text
