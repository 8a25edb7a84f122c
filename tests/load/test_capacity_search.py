"""Search for the capacity, with probes that are not run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.options import RunOptions
from loadtest.proofs import capacity
from loadtest.proofs.capacity import Probe, SearchPlan, SearchResult, run_search, write_results
from loadtest.verdict.slo import SloVerdict, evaluate_slo
from orchestrator.errors import ExitCode, OrderSystemError


@pytest.fixture(autouse=True, scope="module")
def no_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "RECOVERY_SECONDS", 0.0)
        yield


@given(st.floats(2, 100), st.sampled_from([0.9, 0.95, 0.99]))
def test_a_probe_is_long_enough_to_pass_with_one_late_order(rate: float, target: float) -> None:
    plan = SearchPlan(min_rate=2, max_rate=100, precision=0.1, seconds=1, target=target)
    planned = RunOptions.parse({"rate": rate, "duration": f"{plan.probe_seconds(rate)}s"}).orders_at_rate
    assert evaluate_slo(planned, 1, target).verdict is SloVerdict.MET


def a_probe(rate: float, code: ExitCode, **known: Any) -> Probe:
    late = 0 if code is ExitCode.PASSED else 50
    return Probe(rate, "p", code.text, int(code), 1_000, late, 0.1, 2_000.0, 4_000.0 + rate, **known)


def searched(plan: SearchPlan, rate_held: float) -> SearchResult:
    """Return the result of a search in a system that holds this rate."""

    def probe(_: int, rate: float) -> Probe:
        return a_probe(rate, ExitCode.PASSED if rate <= rate_held else ExitCode.LIMIT_BREACHED)

    return run_search(plan, probe, lambda _: None)


@given(st.floats(2, 99))
def test_the_search_finds_the_capacity(rate_held: float) -> None:
    plan = SearchPlan(min_rate=2, max_rate=100, precision=0.1, seconds=30, target=0.99)
    result = searched(plan, rate_held)
    assert result.exit_code is ExitCode.PASSED
    assert result.capacity is not None
    assert result.capacity <= rate_held <= result.capacity * 1.1 + 1e-9
    assert len(result.probes) <= 15


def test_the_search_ends_when_the_capacity_is_known() -> None:
    plan = SearchPlan(min_rate=2, max_rate=10, precision=0.1, seconds=30, target=0.99)
    none_held = searched(plan, 0)
    assert [probe.rate for probe in none_held.probes] == [2]
    assert (none_held.exit_code, str(none_held)) == (ExitCode.LIMIT_BREACHED, "below 2 orders/s")
    all_held = searched(plan, 1_000)
    assert all_held.probes[-1].rate == 10
    assert str(all_held) == "10 orders/s"


def test_the_result_names_the_lowest_rate_that_was_not_held() -> None:
    plan = SearchPlan(min_rate=8, max_rate=100, precision=0.1, seconds=30, target=0.99)
    assert str(searched(plan, 10)) == "9.8 orders/s, not held: 10.3"


NO_VERDICT = OrderSystemError("refused")


@pytest.mark.parametrize(
    ("second", "code", "reason"),
    [
        (a_probe(3, ExitCode.INVALID_RUN), ExitCode.INVALID_RUN, "invalid run at 3/s, see run p"),
        (
            a_probe(3, ExitCode.INVARIANT_BROKEN),
            ExitCode.INVARIANT_BROKEN,
            "invariant broken at 3/s, see run p",
        ),
        (a_probe(3, ExitCode.NOT_PROVEN, was_interrupted=True), ExitCode.NOT_PROVEN, "interrupted"),
        (KeyboardInterrupt(), ExitCode.NOT_PROVEN, "interrupted"),
        (NO_VERDICT, ExitCode.NOT_PROVEN, "the next probe had no verdict: refused"),
    ],
)
def test_a_probe_that_ends_the_search(second: Probe | BaseException, code: ExitCode, reason: str) -> None:
    plan = SearchPlan(min_rate=2, max_rate=100, precision=0.1, seconds=30, target=0.99)

    def probe(number: int, rate: float) -> Probe:
        if number == 1:
            return a_probe(rate, ExitCode.PASSED)
        if isinstance(second, BaseException):
            raise second
        return second

    result = run_search(plan, probe, lambda _: None)
    assert (result.exit_code, result.stop_reason, result.capacity) == (code, reason, 2)


def test_a_first_probe_without_a_verdict_is_an_error() -> None:
    def probe(_number: int, _rate: float) -> Probe:
        raise NO_VERDICT

    plan = SearchPlan(min_rate=2, max_rate=100, precision=0.1, seconds=30, target=0.99)
    with pytest.raises(OrderSystemError, match="refused"):
        run_search(plan, probe, lambda _: None)


def test_the_results_have_a_chart(tmp_path: Path) -> None:
    plan = SearchPlan(min_rate=2, max_rate=20, precision=0.2, seconds=30, target=0.99)
    files = {file.name: file for file in write_results(searched(plan, 9), plan, 15.0, tmp_path / "c")}
    page = files["capacity.html"].read_text()
    assert "late, %" in page
    assert "p99, s" in page
