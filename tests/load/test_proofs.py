"""Checks of the proofs: soak and overload."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.proofs import overload, soak
from loadtest.proofs.memory_usage import MemoryUsage
from loadtest.proofs.overload import Recovery
from loadtest.proofs.proof import FinishedRun, conclude
from orchestrator.embedded import Stack, components
from orchestrator.errors import ExitCode, StackError
from orchestrator.settings import Settings

MIB = 2**20


def usage(*mebibytes: float) -> MemoryUsage:
    """Return a usage of the API with a sample every five seconds."""
    measured = MemoryUsage({"api": os.getpid()})
    measured.samples = [(5.0 * n, {"api": each}) for n, each in enumerate(mebibytes)]
    return measured


def verdict(late: int = 0) -> dict[str, Any]:
    return {"limit": {"late": late}}


def test_memory_may_grow_by_5_percent_from_the_second_to_the_last_third() -> None:
    measured = usage(10, 20, 100, 100, 104, 105)
    assert measured.thirds(60) == {"api": (15, 100, 104.5)}
    assert measured.peak_mib("api") == 105
    assert soak.breaches(verdict(), measured, 15) == []


def test_growing_memory_is_a_breach_and_shrinking_memory_is_not() -> None:
    growing = usage(100, 100, 100, 100, 106, 106)
    (problem,) = soak.breaches(verdict(), growing, 15)
    assert "api grows" in problem
    assert soak.breaches(verdict(), growing, 14) == [], "the components are still warming up"
    assert soak.breaches(verdict(), usage(100, 100, 100, 100, 94, 94), 15) == []


def test_samples_after_the_last_order_are_ignored() -> None:
    assert usage(100, 100, 100, 500, 500, 500).thirds(12) == {"api": (100, 100, 100)}


def test_late_orders_and_ended_components_are_breaches_of_a_soak() -> None:
    measured = usage(100)
    measured.ended.add("temporal")
    assert len(soak.breaches(verdict(late=1), measured, 15)) == 2


def test_memory_usage_includes_child_processes() -> None:
    with MemoryUsage({"api": os.getpid()}) as alone:
        pass
    script = f"import sys; held = bytearray({64 * MIB}); print(flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        with MemoryUsage({"api": os.getpid()}) as together:
            pass
    assert together.peak_mib("api") - alone.peak_mib("api") > 60
    assert together.ended == set()


def test_memory_usage_reports_ended_processes() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with MemoryUsage({"api": gone.pid}) as measured:
        pass
    assert measured.ended == {"api"}


def quarter_hour(*at_seconds: float) -> MemoryUsage:
    """Return a usage of 15 minutes with samples at these times."""
    measured = MemoryUsage({"api": os.getpid()})
    measured.samples = [(at, {"api": 1.0}) for at in at_seconds]
    measured.seconds = 900.0
    return measured


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
    assert any(reason in each for each in soak.unproven(quarter_hour(*at_seconds), 15))


def test_complete_memory_samples_of_a_long_run_are_a_proof() -> None:
    measured = quarter_hour(*COMPLETE)
    assert soak.unproven(measured, 15) == []
    assert soak.unproven(measured, 14) == ["a memory trend needs at least 15 minutes"]


def test_a_failed_memory_sample_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_pid: int) -> str:
        raise PermissionError("smaps_rollup")

    monkeypatch.setattr("loadtest.proofs.memory_usage._smaps_rollup", fail)
    with MemoryUsage({"api": os.getpid()}) as measured:
        pass
    assert any("smaps_rollup" in each for each in soak.unproven(measured, 15))


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
