"""Search for the capacity, with probes that are not run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.options import RunOptions
from loadtest.proofs.capacity import (
    RETRY_LATE_ALLOWANCE,
    Finding,
    Probe,
    SearchPlan,
    capacity_of,
    capacity_text,
    exit_code_of,
    finding_of,
    search,
    write_results,
)
from loadtest.verdict.slo import SloVerdict, evaluate_slo
from orchestrator.errors import ExitCode


@given(st.floats(2, 100), st.sampled_from([0.9, 0.95, 0.99]), st.sampled_from([1, 4]))
def test_a_probe_is_long_enough_for_its_late_allowance(rate: float, target: float, late: int) -> None:
    plan = SearchPlan(min_rate=2, max_rate=100, precision=0.1, seconds=1, target=target)
    planned = RunOptions.parse(
        {"rate": rate, "duration": f"{plan.probe_seconds(rate, late)}s"}
    ).orders_at_rate
    assert evaluate_slo(planned, late, target).verdict is SloVerdict.MET


def probe_result(rate: float, finding: Finding, code: ExitCode = ExitCode.PASSED) -> Probe:
    late = 50 if finding is Finding.BREACHED else 0
    return Probe(
        rate, "p", finding, "v", 1_000, late, late / 1_000, 0.1, 2_000.0, 4_000.0 + rate, exit_code=int(code)
    )


def probe_at(capacity: float, rate: float) -> Probe:
    return probe_result(rate, Finding.HELD if rate <= capacity else Finding.BREACHED)


def probes_of(
    plan: SearchPlan, probe: Callable[[float, int], Probe], recover: Callable[[], None] = lambda: None
) -> list[Probe]:
    """Return the probes of a search in order."""
    probes: list[Probe] = []

    def record(rate: float, late: int) -> Probe:
        probes.append(probe(rate, late))
        return probes[-1]

    search(plan, record, recover)
    return probes


@given(st.floats(2, 99))
def test_the_search_finds_the_capacity(capacity: float) -> None:
    plan = SearchPlan(min_rate=2, max_rate=100, precision=0.1, seconds=30, target=0.99)
    probes = probes_of(plan, lambda rate, _: probe_at(capacity, rate))
    found = capacity_of(probes)
    assert found is not None
    assert found <= capacity <= found * 1.1 + 1e-9
    assert len(probes) <= 15


def test_the_search_ends_when_the_capacity_is_known() -> None:
    plan = SearchPlan(min_rate=2, max_rate=10, precision=0.1, seconds=30, target=0.99)
    none_held = probes_of(plan, lambda rate, _: probe_at(0, rate))
    assert [probe.rate for probe in none_held] == [2]
    assert capacity_of(none_held) is None
    all_held = probes_of(plan, lambda rate, _: probe_at(1_000, rate))
    assert all_held[-1].rate == 10
    assert capacity_text(all_held, 2) == "10 orders/s"
    assert capacity_text(none_held, 2) == "below 2 orders/s"


def test_an_undecided_probe_is_repeated_with_a_longer_plan() -> None:
    plan = SearchPlan(min_rate=8, max_rate=18, precision=0.1, seconds=30, target=0.99)

    def probe(rate: float, late: int) -> Probe:
        """Up to 10/s is held if the plan is long enough; from 10/s to 15/s stays undecided."""
        is_decided = rate > 15 or (rate <= 10 and late == RETRY_LATE_ALLOWANCE)
        return (
            probe_at(10, rate) if is_decided else probe_result(rate, Finding.UNDECIDED, ExitCode.NOT_PROVEN)
        )

    probes = probes_of(plan, probe)
    assert [probe.rate for probe in probes[:4]] == [8, 8, 12, 12]
    assert capacity_text(probes, 8) == "9.8 orders/s, undecided at 10.3, 10.8, 12"


def test_the_result_names_the_rate_that_was_breached() -> None:
    plan = SearchPlan(min_rate=8, max_rate=100, precision=0.1, seconds=30, target=0.99)
    assert (
        capacity_text(probes_of(plan, lambda rate, _: probe_at(10, rate)), 8)
        == "9.8 orders/s, breached at 10.3"
    )
    nothing = probes_of(plan, lambda rate, _: probe_result(rate, Finding.UNDECIDED, ExitCode.NOT_PROVEN))
    assert capacity_text(nothing, 8) == "unknown, undecided at 8"


def test_an_invalid_probe_is_repeated_after_a_pause() -> None:
    plan = SearchPlan(min_rate=2, max_rate=2, precision=0.1, seconds=30, target=0.99)
    invalid, held = probe_result(2, Finding.UNDECIDED, ExitCode.INVALID_RUN), probe_at(9, 2)
    results, pauses = [invalid, held], []
    assert probes_of(plan, lambda *_: results.pop(0), lambda: pauses.append(1)) == [invalid, held]
    assert len(pauses) == 1
    again = probes_of(plan, lambda *_: invalid)
    assert again == [invalid, invalid]
    assert again[-1].stop_reason == "the run at 2/s was invalid, see run p"


@pytest.mark.parametrize(
    ("code", "late", "stopped_after", "finding"),
    [
        (ExitCode.PASSED, 1, None, Finding.HELD),
        (ExitCode.NOT_PROVEN, 2, 20.0, Finding.UNDECIDED),
        (
            ExitCode.LIMIT_BREACHED,
            3,
            20.0,
            Finding.UNDECIDED,
        ),  # a breach for 200 orders, possibly not for 473
        (ExitCode.LIMIT_BREACHED, 5, 20.0, Finding.BREACHED),
        (ExitCode.LIMIT_BREACHED, 3, None, Finding.BREACHED),
        (ExitCode.INVALID_RUN, 0, None, Finding.UNDECIDED),
    ],
)
def test_finding_of_a_verdict(
    code: ExitCode, late: int, stopped_after: float | None, finding: Finding
) -> None:
    limit = {"orders": 200, "late": late, "target": 0.99}
    run = {"planned": 473, "stopped_after_seconds": stopped_after}
    assert finding_of({"exit_code": int(code), "limit": limit, "run": run}) is finding


def test_the_results_have_a_chart(tmp_path: Path) -> None:
    plan = SearchPlan(min_rate=2, max_rate=20, precision=0.2, seconds=30, target=0.99)
    probes = probes_of(plan, lambda rate, _: probe_at(9, rate))
    files = {file.name: file for file in write_results(probes, plan, 15.0, tmp_path / "c")}
    page = files["capacity.html"].read_text()
    assert "late, %" in page
    assert "p99, s" in page


def test_exit_code_of_a_search() -> None:
    held, breached = probe_at(10, 5), probe_at(10, 20)
    invalid = probe_result(5, Finding.UNDECIDED, ExitCode.INVALID_RUN)
    undecided = probe_result(5, Finding.UNDECIDED, ExitCode.NOT_PROVEN)
    assert exit_code_of([held, breached], None) is ExitCode.PASSED
    assert exit_code_of([breached], None) is ExitCode.LIMIT_BREACHED
    assert exit_code_of([undecided], None) is ExitCode.NOT_PROVEN
    assert exit_code_of([invalid], invalid.stop_reason) is ExitCode.INVALID_RUN
    assert exit_code_of([], "interrupted") is ExitCode.NOT_PROVEN
    assert exit_code_of([held], "the next probe had no verdict: refused") is ExitCode.NOT_PROVEN
