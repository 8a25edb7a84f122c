"""Disturbances: parsing, assignment of components, and components that come back at the end of a run."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import gevent
import gevent.event
import pytest

from loadtest.chaos import stack_control
from loadtest.chaos.disturbance import PlannedDisturbance, assign_components, parse_chaos
from loadtest.chaos.runner import DisturbanceRunner
from loadtest.options import RunOptions
from orchestrator.errors import StackError, UsageError
from orchestrator.settings import Settings


def test_parse_chaos() -> None:
    assert parse_chaos("40s restart postgres, 1m kill order-worker", 300) == (
        PlannedDisturbance(40, "restart", "postgres"),
        PlannedDisturbance(60, "kill", "order-worker"),
    )
    times = [each.at_seconds for each in parse_chaos("every 60s kill order-worker", 300)]
    assert times == [60, 120, 180, 240]


@pytest.mark.parametrize(
    "text", ["kill api", "5s hug api", "5s kill", "400s kill api", "every 0s kill api", "every 0.1s kill api"]
)
def test_invalid_chaos(text: str) -> None:
    with pytest.raises(UsageError, match="chaos"):
        parse_chaos(text, 300)


class RecordingRunner(DisturbanceRunner):
    """Records the commands to the helper process instead of sending them."""

    def __init__(self, plan: list[tuple[float, str, str]]) -> None:
        super().__init__(RunOptions.parse({"run_id": "r"}), "http://127.0.0.1:8000")
        self._plan = [PlannedDisturbance(*each) for each in plan]
        self.commands: list[list[str]] = []

    def _send(self, command: list[str]) -> str:
        self.commands.append(command)
        return "null"


def test_unavailable_components_come_back_when_a_run_ends_early() -> None:
    runner = RecordingRunner(
        [
            *((0.0, "pause", "api"), (0.0, "stop", "postgres"), (0.1, "start", "postgres")),
            *((50.0, "kill", "temporal"), (51.0, "resume", "api"), (52.0, "stop", "postgres")),
            (53.0, "start", "postgres"),
        ]
    )
    runner.begin()
    while len(runner.commands) < 3:
        gevent.sleep(0.01)
    done = runner.finish()
    assert runner.commands[3:] == [["resume", "api", "r"]], "later disturbances are cancelled"
    assert [each["verb"] for each in done] == ["pause", "stop", "start", "resume"]
    assert runner.finish() == done


def test_a_component_that_was_never_started_again_comes_back_at_the_end() -> None:
    runner = RecordingRunner([(0.0, "pause", "api"), (0.0, "stop", "postgres"), (0.0, "kill", "api")])
    runner.begin()
    while len(runner.commands) < 3:
        gevent.sleep(0.01)
    assert [each["verb"] for each in runner.finish()] == ["pause", "stop", "kill", "start"]
    assert runner.commands[3:] == [["start", "postgres", "r"]], "the supervisor has started the API again"


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
def test_resume_and_start_hit_the_component_that_was_unavailable_the_longest(chaos: str, hit: str) -> None:
    assigned = assign_components(parse_chaos(chaos, 60), ["api", "worker-1", "worker-2"])
    assert "".join(each.target[-1] for each in assigned) == hit


def test_an_unknown_component_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Unknown component 'worker'. Choose one of: api\."):
        assign_components(parse_chaos("1s kill worker", 60), ["api"])


def test_only_the_tested_stack_is_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    first_line = json.dumps([["api", "order-worker-1"], ["http://127.0.0.1:8000", "http://10.0.0.7:8000"]])
    command = [sys.executable, "-c", f"import sys; print({first_line!r}, flush=True); sys.stdin.read()"]
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: real(command, **options))
    options = RunOptions.parse({"run_id": "r", "chaos": "1s kill order-worker"})
    for tested in ("http://localhost:8000/", "http://10.0.0.7:8000"):
        runner = DisturbanceRunner(options, tested)
        runner.prepare()
        runner.finish()
    for other in ("http://127.0.0.1:9000", "http://elsewhere:8000"):
        with pytest.raises(UsageError, match=r"with its API at http://127\.0\.0\.1:8000"):
            DisturbanceRunner(options, other).prepare()


def test_a_restore_that_was_interrupted_is_continued() -> None:
    runner = RecordingRunner([(0.0, "pause", "api"), (0.0, "stop", "postgres")])
    runner.begin()
    while len(runner.commands) < 2:
        gevent.sleep(0.01)
    hanging = gevent.event.Event()
    send = runner._send
    runner._send = lambda command: str(hanging.wait()) if command[0] == "resume" else send(command)  # type: ignore[method-assign]
    interrupted = gevent.spawn(runner.finish)
    gevent.sleep(0.05)
    interrupted.kill()
    runner._send = send  # type: ignore[method-assign]
    runner.finish()
    assert runner.commands[2:] == [["resume", "api", "r"], ["start", "postgres", "r"]]


class FakeStack:
    """Records what it does. Its `start` fails."""

    calls: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def running_settings(self) -> Settings:
        return self.settings

    def components(self) -> list[Any]:
        return []

    def kill(self, name: str, number: signal.Signals) -> int:
        self.calls.append((number.name, name))
        return 1

    def stop(self, name: str) -> None:
        self.calls.append(("stop", name))

    def start(self, name: str) -> None:
        self.calls.append(("start", name))
        raise StackError("not healthy")

    restart = start


def test_the_helper_of_a_killed_load_test_restores_the_components(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(orders_home=tmp_path)
    monkeypatch.setattr(stack_control, "Stack", FakeStack)
    monkeypatch.setattr(stack_control, "_record", lambda *_: None)
    monkeypatch.setattr(Settings, "load", lambda: settings)
    commands = [
        ["pause", "api", "r"],
        ["stop", "postgres", "r"],
        ["kill", "temporal", "r"],
        ["resume", "api", "r"],
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{json.dumps(each)}\n" for each in commands)))
    stack_control.main()
    assert FakeStack.calls == [
        ("SIGSTOP", "api"), ("stop", "postgres"), ("SIGKILL", "temporal"), ("SIGCONT", "api"),
        ("start", "postgres"),
    ]  # fmt: skip
