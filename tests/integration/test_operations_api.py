"""REST API: latency, fault profile, audit, health, metrics and OpenAPI."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.api.schemas import responses
from orchestrator.rest_client import Json
from tests.integration.problems import is_problem
from tests.live import LiveApi, eventually, new_id

pytestmark = pytest.mark.stack

PARTS = ("receive", "validate", "review", "charge", "prepare", "dispatch", "compensate", "waiting")


def test_the_csv_divides_the_time_of_each_order_exactly(live: LiveApi) -> None:
    run_id = new_id()
    done = live.start(f"-{new_id()}", run_id=run_id)
    cancelled = live.start(run_id=run_id, review="manual")
    live.signal(cancelled, "cancel", reason="=1+1", cancelled_by="@me")
    live.finished(done)
    live.finished(cancelled)

    response = live.http.get("/latency.csv", params={"run_id": run_id})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert response.text.splitlines()[0] == (
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


def test_latency_of_a_time_range(live: LiveApi) -> None:
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


def order_that_fails_to_charge(live: LiveApi) -> Json | None:
    """Start an order and return its status after two failed charges, or None if its worker does not know the
    faults yet."""
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    live.signal(order_id, "approve", reviewer="r")

    def decided() -> Json | None:
        now = live.status(order_id)
        return now if now["status"] != "running" or now["retries"].get("charge", 0) >= 2 else None

    status: Json = eventually(decided)
    return status if status["status"] == "running" else None


def test_a_fault_profile_is_active_and_failures_are_visible_while_an_order_runs(live: LiveApi) -> None:
    failing = {"default": {}, "steps": {"charge": {"error": 1.0}}}
    try:
        response = live.http.put("/faults", json={"profile": "custom", "seed": 7, "rates": failing})
        assert response.status_code == 200
        active = live.http.get("/faults").json()
        assert active == response.json()
        assert responses.FaultsResponse.model_validate(active)
        assert (active["profile"], active["seed"]) == ("custom", 7)
        assert active["rates"]["steps"]["charge"]["error"] == 1.0

        status = eventually(lambda: order_that_fails_to_charge(live))
        order_id = status["order_id"]
        assert (status["status"], status["current_step"]) == ("running", "charge")
        assert status["recent_errors"][0]["error"] == "charge failed (simulated)"
        assert status["recent_errors"][0]["outcome"] == "error"
        live.signal(order_id, "cancel", reason="test is over", cancelled_by="test")
        assert live.finished(order_id)["status"] == "cancelled"
    finally:
        live.http.put("/faults", json={"profile": "none"})


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
def test_a_malformed_fault_profile_is_422(live: LiveApi, wrong: dict[str, object]) -> None:
    before = live.http.get("/faults").json()
    assert is_problem(live.http.put("/faults", json=wrong), 422)
    assert live.http.get("/faults").json() == before


def test_audit_of_all_orders_and_of_a_run(live: LiveApi) -> None:
    run_id = new_id()
    live.finished(live.start(run_id=run_id))
    report = eventually(
        lambda: (
            (now := live.http.get("/audit", params={"run_id": run_id}).json())["workflows_checked"] and now
        )
    )
    assert responses.AuditResponse.model_validate(report)
    assert report["clean"]
    assert (report["finished"], report["open"], report["violations"]) == (1, 0, [])
    assert [invariant["number"] for invariant in report["invariants"]] == list(range(1, 10))
    assert live.http.get("/audit").json()["clean"]


def test_the_audit_of_an_unknown_run_is_404(live: LiveApi) -> None:
    unknown = {"run_id": new_id()}
    response = live.http.get("/audit", params=unknown)
    assert is_problem(response, 404)
    assert unknown["run_id"] in response.json()["detail"]


def test_health_reports_the_state_of_the_system(live: LiveApi) -> None:
    response = live.http.get("/health")
    assert response.status_code == 200
    health = response.json()
    age = datetime.now(UTC) - datetime.fromisoformat(health.pop("timestamp"))
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert health == {
        "status": "healthy",
        "temporal_connected": True,
        "database_connected": True,
        "workers_healthy": True,
    }


def test_metrics_count_orders_and_requests_by_route(live: LiveApi) -> None:
    live.finished(live.start())
    response = live.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "database_connected 1.0" in response.text
    assert 'orders_finished_total{outcome="completed"}' in response.text
    assert 'order_attempts_total{outcome="ok"}' in response.text
    assert 'route="/orders/{order_id}/start",status="200"' in response.text
    assert 'route="/orders/{order_id}/status?wait",status="200"' in response.text


def test_openapi_documents_every_response(live: LiveApi) -> None:
    document = live.http.get("/openapi.json").json()
    assert document["components"]["schemas"]["Problem"]
    assert "HTTPValidationError" not in json.dumps(document)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            received = operation["responses"]
            assert "200" in received, (method, path)
            for status in set(received) - {"200"}:
                assert list(received[status]["content"]) == [
                    "application/json" if path == "/health" else "application/problem+json"
                ]
    assert "swagger" in live.http.get("/docs").text
