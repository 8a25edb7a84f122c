"""Stored load tests over the REST API and on the command line: list, label, baseline, delete."""

from datetime import UTC, datetime, timedelta

import pytest

from db import runs
from db.runs import NewRun, RunResult
from loadtest.options import RunOptions
from orchestrator.api.schemas import responses
from orchestrator.embedded import Stack
from tests.command_line import commands_for
from tests.integration.problems import is_problem
from tests.live import LiveApi, eventually, new_id


def store(live_stack: Stack, ago: timedelta = timedelta(0), *, ended: bool = False) -> str:
    """Store a run as the load generator does. Return its id."""
    url, run_id = live_stack.settings.order_database_url, new_id()
    options = RunOptions.parse({"run_id": run_id, "rate": "3", "duration": "30s"}).to_json()
    started_at = datetime.now(UTC) - ago
    new = NewRun(run_id, "mixed", options, options["stages"], "none", 1, started_at, None, {})
    assert runs.open_run(url, new)
    if ended:
        verdict = {
            "verdict": "passed",
            "exit_code": 0,
            "run": {"offered_rate": 3.0, "completed_rate": 2.5},
            "times": {"completion_ms": {"p50": 2000.0, "p99": 4000.0}},
        }
        runs.close_run(url, run_id, RunResult(datetime.now(UTC), [], verdict, [], [2000, 4000], 1, 2))
    return run_id


def started(live: LiveApi, run_id: str) -> str:
    """Start an order of a run, and return its id when it is in the order database."""
    order_id = live.start(run_id=run_id)
    eventually(lambda: live.http.get("/orders", params={"run_id": run_id}).json()["orders"])
    return order_id


def test_a_run_is_listed_with_its_result(live: LiveApi, live_stack: Stack) -> None:
    run_id = store(live_stack, ended=True)
    response = live.http.get(f"/runs/{run_id}")
    assert response.status_code == 200
    run = response.json()
    assert responses.RunResponse.model_validate(run)
    assert {name: run[name] for name in ("label", "notes", "is_baseline", "verdict", "exit_code")} == {
        "label": None, "notes": "", "is_baseline": False, "verdict": "passed", "exit_code": 0,
    }  # fmt: skip
    assert (run["orders"], run["late"], run["p50_ms"], run["p99_ms"]) == (2, 1, 2000.0, 4000.0)
    assert (run["offered_rate"], run["completed_rate"]) == (3.0, 2.5)
    newest = store(live_stack)
    listed = live.http.get("/runs", params={"limit": 2}).json()["runs"]
    assert [each["run_id"] for each in listed] == [newest, run_id]
    assert listed[1] == run
    assert listed[0]["verdict"] is None


def test_label_and_notes_are_changed_one_by_one(live: LiveApi, live_stack: Stack) -> None:
    path = f"/runs/{store(live_stack)}"
    assert live.http.patch(path, json={"label": "before the index"}).json()["label"] == "before the index"
    changed = live.http.patch(path, json={"notes": "two workers\nquiet hour"}).json()
    assert (changed["label"], changed["notes"]) == ("before the index", "two workers\nquiet hour")
    assert changed == live.http.get(path).json()
    assert live.http.patch(path, json={"label": None}).json()["label"] is None
    assert live.http.patch(path, json={}).json()["notes"] == "two workers\nquiet hour"


def test_at_most_one_run_is_the_baseline(live: LiveApi, live_stack: Stack) -> None:
    one, other = (f"/runs/{store(live_stack)}" for _ in range(2))
    assert live.http.patch(one, json={"is_baseline": True}).json()["is_baseline"]
    assert live.http.patch(other, json={"is_baseline": True}).json()["is_baseline"]
    assert not live.http.get(one).json()["is_baseline"]
    # It is not the baseline, so the other one stays.
    live.http.patch(one, json={"is_baseline": False})
    assert live.http.get(other).json()["is_baseline"]
    assert not live.http.patch(other, json={"is_baseline": False}).json()["is_baseline"]


def test_a_deleted_run_is_gone_and_its_orders_stay(live: LiveApi, live_stack: Stack) -> None:
    run_id = store(live_stack, ended=True)
    order_id = started(live, run_id)
    live.http.patch(f"/runs/{run_id}", json={"is_baseline": True})
    assert live.http.delete(f"/runs/{run_id}").status_code == 200
    assert is_problem(live.http.get(f"/runs/{run_id}"), 404)
    listed = live.http.get("/orders", params={"run_id": run_id}).json()["orders"]
    assert [order["order_id"] for order in listed] == [order_id]
    assert runs.run_id_exists(live_stack.settings.order_database_url, run_id)


def test_a_run_in_progress_is_not_deleted(live: LiveApi, live_stack: Stack) -> None:
    run_id = store(live_stack)
    response = live.http.delete(f"/runs/{run_id}")
    assert is_problem(response, 409)
    assert response.json()["type"] == "urn:problem:run-in-progress"
    assert live.http.get(f"/runs/{run_id}").status_code == 200


def test_an_aborted_run_is_deleted_unless_its_orders_are_recent(live: LiveApi, live_stack: Stack) -> None:
    aborted = store(live_stack, ago=timedelta(hours=1))
    active = store(live_stack, ago=timedelta(hours=1))
    started(live, active)
    assert live.http.delete(f"/runs/{aborted}").status_code == 200
    assert is_problem(live.http.delete(f"/runs/{active}"), 409)


@pytest.mark.parametrize("method", ["get", "patch", "delete"])
def test_an_unknown_run_is_404(live: LiveApi, method: str) -> None:
    body = {"json": {"label": "x"}} if method == "patch" else {}
    response = getattr(live.http, method)("/runs/no-such-run", **body)
    assert is_problem(response, 404)
    assert response.json()["type"] == "urn:problem:run-unknown"


@pytest.mark.parametrize(
    "wrong",
    [{"label": ""}, {"label": "x" * 201}, {"notes": "x" * 2_001}, {"notes": "\x00"}, {"notes": None},
     {"is_baseline": "yes"}, {"is_baseline": None}, {"run_id": "other"}],
)  # fmt: skip
def test_a_malformed_change_is_422(live: LiveApi, live_stack: Stack, wrong: dict[str, object]) -> None:
    path = f"/runs/{store(live_stack)}"
    before = live.http.get(path).json()
    assert is_problem(live.http.patch(path, json=wrong), 422)
    assert live.http.get(path).json() == before


def test_runs_on_the_command_line(
    live_stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = store(live_stack, ended=True)
    command = commands_for(live_stack.settings, monkeypatch, capsys)
    assert [run["run_id"] for run in command("runs", "list", "--limit", "1", "--json").json()["runs"]] == [
        run_id
    ]
    changes = ("--label", "quiet hour", "--notes", "two workers", "--baseline")
    assert "quiet hour" in command("runs", "change", run_id, *changes).out
    assert "two workers" in command("runs", "show", run_id).out
    assert command("runs", "change", run_id, "--label", "", "--json").json()["label"] is None
    assert command("runs", "change", run_id).refuses(2, "Nothing to change")
    assert command("runs", "show", "a b").refuses(2, "is not a run id")
    assert "its orders stay" in command("runs", "delete", run_id).out
    assert command("runs", "show", run_id).refuses(1, "no such run")
