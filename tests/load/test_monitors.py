"""What a run does beside its orders: probes, chaos that is brought back, questions after the end."""

import json
import subprocess
import sys
import time
from typing import Any

import gevent
import pytest
from typer.testing import CliRunner

from loadtest import commands, monitors, post_run
from loadtest.chaos.disturbance import Disturbance, parse_chaos
from loadtest.chaos.runner import DisturbanceRunner, with_components
from loadtest.generator.api_client import ApiClient, ApiResponse, NoResponse
from loadtest.monitors import InterimAudit, Outages
from loadtest.options import RunOptions
from loadtest.post_run import Afterwards
from orchestrator.errors import ServiceUnavailable, UsageError


class HangingApi(ApiClient):
    """Answers nothing for so long, then breaks the connection."""

    def __init__(self, seconds: float) -> None:
        self._hangs = seconds

    def get(self, path: str, name: str) -> ApiResponse:
        gevent.sleep(self._hangs)
        raise NoResponse(f"{path}: {name}")


@pytest.mark.parametrize("is_answered", [True, False])
def test_an_outage_lasts_as_long_as_its_question(is_answered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitors, "PROBE_SECONDS", 0.2)
    outages = Outages(HangingApi(2.1 if is_answered else 60.0))
    watch = gevent.spawn(outages.watch)
    watch.join(timeout=2.4)  # the second question is just asked, or the first one still open
    watch.kill()
    outages.settle()
    assert outages.told() == ["the API did not answer for about 2 s"]


def test_all_questions_after_a_run_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_run, "PATIENCE_SECONDS", 1.0)
    questions: list[str] = []

    def ask(what: str) -> None:
        questions.append(what)
        raise ServiceUnavailable("nobody there")

    began = time.monotonic()
    asking = Afterwards()
    for what in ("faults", "audit", "csv"):
        assert asking.ask(lambda what=what: ask(what), f"no {what}") is None  # type: ignore[misc]
    assert time.monotonic() - began < 2.5
    assert asking.missing == [f"no {what}: nobody there" for what in ("faults", "audit", "csv")]
    assert questions.count("faults") >= 2
    assert questions.count("csv") == 1


def test_an_audit_waits_until_temporal_lists_every_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_run, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(post_run, "LISTED_SECONDS", 0.2)
    left = [3, 1, 0, 7]
    monkeypatch.setattr(post_run, "audit", lambda *_: {"uncompared": left.pop(0)})
    assert post_run.complete_audit("http://nowhere", None, "r") == {"uncompared": 0}
    monkeypatch.setattr(post_run, "audit", lambda *_: {"uncompared": 2})
    assert post_run.complete_audit("http://nowhere", None, "r") == {"uncompared": 2}, "as it is"


class FakeMonkey(DisturbanceRunner):
    """Carries out nothing, and remembers what."""

    def __init__(self, plan: list[tuple[float, str, str]]) -> None:
        super().__init__(RunOptions.parse({"run_id": "r"}), "http://127.0.0.1:8000")
        self._plan = [(Disturbance(at, verb, target), target) for at, verb, target in plan]
        self.asked: list[list[str]] = []

    def _ask(self, question: list[str]) -> str:
        self.asked.append(question)
        return "null"


def test_what_chaos_took_away_comes_back_when_a_run_ends_early() -> None:
    monkey = FakeMonkey(
        [
            *((0.0, "pause", "api"), (0.0, "stop", "postgres"), (0.1, "start", "postgres")),
            *((50.0, "kill", "temporal"), (51.0, "resume", "api"), (52.0, "stop", "postgres")),
            (53.0, "start", "postgres"),
        ]
    )
    monkey.begin()
    while len(monkey.asked) < 3:
        gevent.sleep(0.01)
    told = monkey.finish()
    assert monkey.asked[3:] == [["resume", "api", "r"]], "the rest had not begun"
    assert [each["verb"] for each in told] == ["pause", "stop", "start", "resume"]
    assert monkey.finish() == told


def test_what_chaos_took_away_for_good_comes_back_in_the_end() -> None:
    monkey = FakeMonkey([(0.0, "pause", "api"), (0.0, "stop", "postgres"), (0.0, "kill", "api")])
    monkey.begin()
    while len(monkey.asked) < 3:
        gevent.sleep(0.01)
    assert [each["verb"] for each in monkey.finish()] == ["pause", "stop", "kill", "start"]
    assert monkey.asked[3:] == [["start", "postgres", "r"]], "the supervisor has started the API again"


@pytest.mark.parametrize(
    ("chaos", "hit"),
    [
        ("1s kill worker, 2s kill worker, 3s kill worker", "121"),
        ("1s pause worker, 2s resume worker, 3s pause worker, 4s resume worker", "1122"),
        ("1s pause worker, 2s stop worker, 3s start worker, 4s resume worker", "1221"),
        ("1s pause worker, 2s pause worker, 3s resume worker, 4s resume worker", "1212"),
        ("1s pause worker, 2s kill worker, 3s kill worker, 4s resume worker", "1221"),
        ("1s pause worker-2, 2s pause worker, 3s resume worker", "212"),
        ("1s stop worker, 2s restart worker-1, 3s start worker", "112"),
    ],
)
def test_what_comes_back_is_what_was_taken_away(chaos: str, hit: str) -> None:
    planned = parse_chaos(chaos, 60)
    found = with_components(planned, ["api", "worker-1", "worker-2"])
    assert "".join(component[-1] for _, component in found) == hit


def a_stack(monkeypatch: pytest.MonkeyPatch, *api_urls: str) -> None:
    """As the helper tells of it."""
    told = json.dumps([["api", "order-worker-1"], api_urls])
    command = [sys.executable, "-c", f"import sys; print({told!r}, flush=True); sys.stdin.read()"]
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **given: real(command, **given))


def test_chaos_hits_the_stack_that_is_tested_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    a_stack(monkeypatch, "http://127.0.0.1:8000", "http://10.0.0.7:8000")
    options = RunOptions.parse({"run_id": "r", "chaos": "1s kill order-worker"})
    for tested in ("http://localhost:8000/", "http://10.0.0.7:8000"):
        monkey = DisturbanceRunner(options, tested)
        monkey.prepare()
        monkey.finish()
    for other in ("http://127.0.0.1:9000", "http://elsewhere:8000"):
        with pytest.raises(UsageError, match=r"with its API at http://127\.0\.0\.1:8000"):
            DisturbanceRunner(options, other).prepare()


def test_the_books_so_far_are_audited_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    audits: list[str] = []

    def audit(_url: str, _key: str | None, run_id: str) -> dict[str, Any]:
        audits.append(run_id)
        gevent.sleep(0.05)
        return {"judged": 7, "workflows_checked": 7, "uncompared": 0, "violations": []}

    monkeypatch.setattr(monitors, "audit", audit)
    monkeypatch.setattr(monitors, "AUDIT_EVERY_SECONDS", 0.5)
    database = InterimAudit("http://nowhere", None, "r", list)
    for _ in range(20):
        assert database.look() == "not audited yet"
    while (found := database.look()) == "not audited yet":
        gevent.sleep(0.01)
    assert found.startswith("so far (")
    assert found.endswith("no violation: 9 invariants checked on 7 orders; 7 workflow results compared")
    assert audits == ["r"], "none while one is under way, and the next one later"
    while len(audits) < 2:
        database.look()
        gevent.sleep(0.01)
    database.end()


def test_a_made_up_run_id_is_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(commands, "become_locust", given.extend)
    assert CliRunner().invoke(commands.app, ["run", "--rate=2"]).exit_code == 0
    assert [word for word in given if word.startswith("--run-id=run-")]
    given.clear()
    assert CliRunner().invoke(commands.app, ["run", "--worker"]).exit_code == 0
    assert not [word for word in given if word.startswith("--run-id")]
