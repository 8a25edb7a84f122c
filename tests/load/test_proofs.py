"""What the soak and the overload conclude from what they saw."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.proofs import overload, soak
from loadtest.proofs.async_load import DriveReport
from loadtest.proofs.overload import Aftermath, Fresh
from loadtest.proofs.resource_usage import Footprint, Sample
from orchestrator.embedded import ComponentStatus, Stack, components
from orchestrator.errors import StackError
from orchestrator.exit_codes import ExitCode
from orchestrator.settings import Settings

MIB = 2**20


def component(name: str) -> ComponentStatus:
    return ComponentStatus(
        name=name, pid=os.getpid(), port=None, socket=None, healthy=True, restarts=0, state="RUNNING"
    )


def footprint(*mebibytes: float, name: str = "api") -> Footprint:
    """Samples of one component, one every five seconds."""
    samples = [Sample(5.0 * n, {name: round(each * MIB)}, 0) for n, each in enumerate(mebibytes)]
    return Footprint([component(name)], samples)


def verdict(late: int = 0) -> dict[str, Any]:
    return {"limit": {"late": late}}


def test_memory_is_flat_while_the_last_third_is_at_most_5_percent_above_the_second() -> None:
    seen = footprint(10, 20, 100, 100, 104, 105).trends(0, 60)
    assert (seen["api"].second, seen["api"].third, seen["api"].peak) == (100, 104.5, 105)
    assert soak.problems(verdict(), seen, set()) == []


def test_memory_that_grows_is_a_problem_and_memory_that_is_given_back_is_none() -> None:
    (problem,) = soak.problems(verdict(), footprint(100, 100, 100, 100, 106, 106).trends(0, 60), set())
    assert "api grows" in problem
    assert soak.problems(verdict(), footprint(100, 100, 100, 100, 94, 94).trends(0, 60), set()) == []


def test_samples_after_the_last_order_do_not_count() -> None:
    assert footprint(100, 100, 100, 500, 500, 500).trends(0, 12)["api"].third == 100


def test_late_orders_and_lost_components_are_problems_of_a_soak() -> None:
    assert len(soak.problems(verdict(late=1), {}, {"temporal"})) == 2


def test_a_footprint_sees_the_memory_of_a_process_and_its_children() -> None:
    with Footprint([component("api")]) as alone:
        pass
    script = f"import sys; held = bytearray({64 * MIB}); print(flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        with Footprint([component("api")]) as together:
            pass
    assert together.peak_mib("api") - alone.peak_mib("api") > 60
    assert together.lost == set()


def test_a_footprint_tells_which_process_has_ended() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with Footprint([ComponentStatus(**vars(component("api")) | {"pid": gone.pid})]) as seen:
        pass
    assert seen.lost == {"api"}


def soaked(*at_seconds: float) -> Footprint:
    """A quarter of an hour, of which the memory was read at these moments."""
    return Footprint([component("api")], [Sample(at, {"api": MIB}, 0) for at in at_seconds], seconds=900.0)


THROUGHOUT = [float(at) for at in range(0, 900, 5)]


@pytest.mark.parametrize(
    ("at_seconds", "reason"),
    [
        ([], "never read"),
        (THROUGHOUT[:2], "between 5 s and 900 s"),
        (THROUGHOUT[:100], "between 495 s and 900 s"),
        (THROUGHOUT[50:], "between 0 s and 250 s"),
        (THROUGHOUT[:50] + THROUGHOUT[60:], "between 245 s and 300 s"),
    ],
)
def test_memory_that_was_not_read_throughout_proves_nothing(at_seconds: list[float], reason: str) -> None:
    seen = soaked(*at_seconds)
    assert any(reason in each for each in soak.unproven(15.0, seen.trends(0, 900), seen))
    assert overload.judge(aftermath(), seen)[0] is ExitCode.NOT_PROVEN


def test_memory_that_was_read_throughout_is_proof_if_that_was_long_enough() -> None:
    seen = soaked(*THROUGHOUT)
    trends = seen.trends(0, 900)
    assert soak.unproven(15.0, trends, seen) == []
    assert soak.unproven(14.0, trends, seen) == ["memory is judged after 15 minutes and more"]
    assert soak.unproven(15.0, {}, seen) == ["the memory of api has no thirds"]


def test_a_look_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_pid: int) -> dict[str, int]:
        raise PermissionError("smaps_rollup")

    monkeypatch.setattr("loadtest.proofs.resource_usage._proportional_set", refused)
    with Footprint([component("api")]) as seen:
        pass
    assert any("smaps_rollup" in each for each in seen.gaps())
    assert any("smaps_rollup" in each for each in soak.unproven(15.0, {}, seen))


def test_a_component_that_does_not_run_cannot_be_measured(tmp_path: Path) -> None:
    nobody_runs = Stack(Settings(orders_home=tmp_path, database_url=None, temporal_address=None))
    with pytest.raises(StackError, match=r"temporal, order-worker-1, .* does not run"):
        Footprint.of(nobody_runs)


def aftermath(**changes: Any) -> Aftermath:
    driven = DriveReport(
        "run", offered=3, acknowledged=["a", "b"], failures={"c": "429 {}"}, lag_ms=[1.0, 1.0, 1.0]
    )
    on_time = {"status": "completed", "within_limit": True, "completion_ms": 4000}
    given: dict[str, Any] = {
        "driven": driven,
        "finished": {"a": on_time, "b": on_time},
        "audit": {"clean": True, "violations": []},
        "fresh": Fresh(0.5, on_time),
    }
    return Aftermath(**given | changes)


LATE = {"status": "cancelled", "within_limit": False, "completion_ms": 16_000}
VIOLATION = {"invariant": 3, "order_id": "a", "finding": "charged twice"}


def driven(**changes: Any) -> DriveReport:
    return DriveReport(**vars(aftermath().driven) | changes)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, ExitCode.PASSED),
        ({"finished": {"a": aftermath().finished["a"]}}, ExitCode.LIMIT_BREACHED),
        ({"finished": aftermath().finished | {"b": LATE}}, ExitCode.LIMIT_BREACHED),
        ({"fresh": None}, ExitCode.LIMIT_BREACHED),
        ({"fresh": Fresh(0.5, LATE)}, ExitCode.LIMIT_BREACHED),
        ({"driven": driven(failures={"c": "429 {}", "d": "503 {}"})}, ExitCode.LIMIT_BREACHED),
        ({"driven": driven(failures={"c": "429 {}", "d": "ReadTimeout('')"})}, ExitCode.LIMIT_BREACHED),
        ({"driven": driven(failures={})}, ExitCode.NOT_PROVEN),
        ({"driven": driven(lag_ms=[1.0, 900.0])}, ExitCode.INVALID_RUN),
        ({"audit": {"clean": False, "violations": [VIOLATION]}}, ExitCode.INVARIANT_BROKEN),
    ],
)
def test_each_way_an_overload_may_go_has_its_code(changes: dict[str, Any], code: ExitCode) -> None:
    found, problems = overload.judge(aftermath(**changes), footprint(100))
    assert found is code
    assert bool(problems) == (code is not ExitCode.PASSED)


def test_a_component_above_its_memory_limit_is_a_breach() -> None:
    code, (problem,) = overload.judge(aftermath(), footprint(100, 600, 100))
    assert code is ExitCode.LIMIT_BREACHED
    assert "api took 600 MiB" in problem


def test_every_component_has_a_memory_limit() -> None:
    for planned in components.components(Settings(database_url=None, temporal_address=None)):
        assert overload.memory_limit_mib(planned.name) > 0


def test_external_servers_are_refused() -> None:
    command = [sys.executable, "-m", "loadtest.proofs.overload"]
    environment = os.environ | {"DATABASE_URL": "postgresql://somewhere/orders"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.WRONG_USAGE
    assert "DATABASE_URL" in done.stderr
