"""Checks of the proofs: soak and overload."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.proofs import overload, soak
from loadtest.proofs.overload import Recovery
from loadtest.proofs.proof import FinishedRun, conclude
from loadtest.proofs.resource_usage import MemorySample, MemoryUsage
from orchestrator.embedded import ComponentStatus, Stack, components
from orchestrator.errors import ExitCode, StackError
from orchestrator.settings import Settings

MIB = 2**20


def component(name: str) -> ComponentStatus:
    return ComponentStatus(
        name=name, pid=os.getpid(), port=None, socket=None, healthy=True, restarts=0, state="RUNNING"
    )


def usage(*mebibytes: float, name: str = "api") -> MemoryUsage:
    """Return a usage of one component with a sample every five seconds."""
    samples = [MemorySample(5.0 * n, {name: round(each * MIB)}, 0) for n, each in enumerate(mebibytes)]
    return MemoryUsage([component(name)], samples)


def verdict(late: int = 0) -> dict[str, Any]:
    return {"limit": {"late": late}}


def test_memory_may_grow_by_5_percent_from_the_second_to_the_last_third() -> None:
    measured = usage(10, 20, 100, 100, 104, 105).trends(60)
    assert (measured["api"].second, measured["api"].third, measured["api"].peak) == (100, 104.5, 105)
    assert soak.breaches(verdict(), measured, set()) == []


def test_growing_memory_is_a_breach_and_shrinking_memory_is_not() -> None:
    (problem,) = soak.breaches(verdict(), usage(100, 100, 100, 100, 106, 106).trends(60), set())
    assert "api grows" in problem
    assert soak.breaches(verdict(), usage(100, 100, 100, 100, 94, 94).trends(60), set()) == []


def test_samples_after_the_last_order_are_ignored() -> None:
    assert usage(100, 100, 100, 500, 500, 500).trends(12)["api"].third == 100


def test_late_orders_and_ended_components_are_breaches_of_a_soak() -> None:
    assert len(soak.breaches(verdict(late=1), {}, {"temporal"})) == 2


def test_memory_usage_includes_child_processes() -> None:
    with MemoryUsage([component("api")]) as alone:
        pass
    script = f"import sys; held = bytearray({64 * MIB}); print(flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        with MemoryUsage([component("api")]) as together:
            pass
    assert together.peak_mib("api") - alone.peak_mib("api") > 60
    assert together.ended == set()


def test_memory_usage_reports_ended_processes() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with MemoryUsage([ComponentStatus(**vars(component("api")) | {"pid": gone.pid})]) as measured:
        pass
    assert measured.ended == {"api"}


def quarter_hour(*at_seconds: float) -> MemoryUsage:
    """Return a usage of 15 minutes with samples at these times."""
    return MemoryUsage(
        [component("api")], [MemorySample(at, {"api": MIB}, 0) for at in at_seconds], seconds=900.0
    )


COMPLETE = [float(at) for at in range(0, 900, 5)]


@pytest.mark.parametrize(
    ("at_seconds", "reason"),
    [
        ([], "no memory sample"),
        (COMPLETE[:2], "no memory sample between 5 s and 900 s"),
        (COMPLETE[:100], "between 495 s and 900 s"),
        (COMPLETE[50:], "between 0 s and 250 s"),
        (COMPLETE[:50] + COMPLETE[60:], "between 245 s and 300 s"),
    ],
)
def test_missing_memory_samples_prove_nothing(at_seconds: list[float], reason: str) -> None:
    measured = quarter_hour(*at_seconds)
    assert any(reason in each for each in soak.unproven(15.0, measured.trends(900), measured))


def test_complete_memory_samples_of_a_long_run_are_a_proof() -> None:
    measured = quarter_hour(*COMPLETE)
    trends = measured.trends(900)
    assert soak.unproven(15.0, trends, measured) == []
    assert soak.unproven(14.0, trends, measured) == ["a memory trend needs at least 15 minutes"]
    assert soak.unproven(15.0, {}, measured) == ["too few memory samples of api"]


def test_a_failed_memory_sample_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_pid: int) -> dict[str, int]:
        raise PermissionError("smaps_rollup")

    monkeypatch.setattr("loadtest.proofs.resource_usage._proportional_set_sizes", fail)
    with MemoryUsage([component("api")]) as measured:
        pass
    assert any("smaps_rollup" in each for each in measured.gaps())
    assert any("smaps_rollup" in each for each in soak.unproven(15.0, {}, measured))


def test_memory_of_a_stopped_component_cannot_be_measured(tmp_path: Path) -> None:
    stopped = Stack(Settings(orders_home=tmp_path, database_url=None, temporal_address=None))
    with pytest.raises(StackError, match=r"temporal, order-worker-1, .* not running"):
        MemoryUsage.of(stopped)


RECOVERED = Recovery(sent=10, not_accepted=0, first_accepted_seconds=0.5)


def test_an_overload_without_breaches() -> None:
    assert overload.breaches(verdict(), RECOVERED, usage(100)) == []


@pytest.mark.parametrize(
    ("late", "recovery", "memory", "breach"),
    [
        (1, RECOVERED, 100, "1 orders were late"),
        (
            0,
            Recovery(10, 1, 0.5),
            100,
            "1 of 10 orders sent 5 s or more after the overload were not accepted",
        ),
        (0, Recovery(10, 10, None), 100, "10 of 10 orders"),
        (0, RECOVERED, 600, "api used 600 MiB, limit 512 MiB"),
    ],
)
def test_each_breach_of_an_overload(late: int, recovery: Recovery, memory: int, breach: str) -> None:
    (found,) = overload.breaches(verdict(late), recovery, usage(100, memory, 100))
    assert breach in found


def test_an_ended_component_is_a_breach_of_an_overload() -> None:
    measured = usage(100)
    measured.ended.add("api")
    assert overload.breaches(verdict(), RECOVERED, measured) == ["api ended during the run"]


def test_recovery_is_read_from_the_orders_after_the_overload() -> None:
    def order(second: int, is_accepted: bool) -> dict[str, str]:
        at = f"2026-03-01T12:00:{second:02d}.000Z"
        return {"requested_at": at, "accepted_at": at if is_accepted else ""}

    start = "2026-03-01T12:00:00.000+00:00"
    orders = [order(9, False), order(10, False), order(12, True), order(14, False), order(15, True)]
    assert overload.recovery_of(orders, start, 10) == Recovery(1, 0, 2.0)
    assert overload.recovery_of([*orders, order(20, False)], start, 10) == Recovery(2, 1, 2.0)
    assert overload.recovery_of(orders[:2], start, 10) == Recovery(0, 0, None)


@pytest.mark.parametrize(
    ("verdict_code", "breaches", "unproven", "code"),
    [
        (ExitCode.PASSED, [], [], ExitCode.PASSED),
        (ExitCode.PASSED, [], ["no sample"], ExitCode.NOT_PROVEN),
        (ExitCode.PASSED, ["late"], ["no sample"], ExitCode.LIMIT_BREACHED),
        (ExitCode.NOT_PROVEN, [], [], ExitCode.NOT_PROVEN),
        (ExitCode.NOT_PROVEN, ["late"], [], ExitCode.LIMIT_BREACHED),
        (ExitCode.LIMIT_BREACHED, [], [], ExitCode.LIMIT_BREACHED),
        (ExitCode.INVALID_RUN, ["late"], ["no sample"], ExitCode.INVALID_RUN),
        (ExitCode.INVARIANT_BROKEN, ["late"], [], ExitCode.INVARIANT_BROKEN),
    ],
)
def test_exit_code_of_a_proof(
    verdict_code: ExitCode, breaches: list[str], unproven: list[str], code: ExitCode
) -> None:
    assert conclude(FinishedRun(verdict_code, {}, Path()), breaches, unproven) is code


def test_every_component_has_a_memory_limit() -> None:
    for planned in components.components(Settings(database_url=None, temporal_address=None)):
        assert overload.memory_limit_mib(planned.name) > 0


def test_external_servers_are_refused() -> None:
    command = [sys.executable, "-m", "loadtest.proofs.overload"]
    environment = os.environ | {"DATABASE_URL": "postgresql://somewhere/orders"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.WRONG_USAGE
    assert "DATABASE_URL" in done.stderr
