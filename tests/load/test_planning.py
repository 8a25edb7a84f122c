"""Schedules, options and the search for the capacity, as pure functions."""

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.chaos.disturbance import Disturbance, parse_chaos
from loadtest.generator.arrivals import OpenLoop, due_times, planned_orders, worker_schedule
from loadtest.generator.survival import SurvivalCurve
from loadtest.options import RunOptions, Stage
from loadtest.proofs.capacity import (
    RETRY_LATE_ALLOWANCE,
    Finding,
    Probe,
    SearchPlan,
    capacity_of,
    capacity_text,
    finding_of,
    search,
    write_results,
)
from loadtest.verdict.slo import SloVerdict, evaluate_slo, orders_needed
from orchestrator.errors import UsageError
from orchestrator.exit_codes import ExitCode


def options(**given: object) -> RunOptions:
    return RunOptions.parse({"run_id": "r", **given})


def test_a_constant_schedule_is_absolute() -> None:
    due = list(due_times(options(rate=4, duration="2s")))
    assert due == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75])


def test_steps_follow_each_other_without_a_gap() -> None:
    due = list(due_times(options(stages="2s@1,1s@4,2s@1")))
    assert due == pytest.approx([0, 1, 2, 2.25, 2.5, 2.75, 3, 4])


def test_a_ramp_offers_the_orders_under_its_line() -> None:
    plan = options(stages="10s@0.5..19.5")
    due = list(due_times(plan))
    assert len(due) == planned_orders(plan) == 100
    # After t seconds rate·t + slope·t²/2 orders are due.
    for number, at in enumerate(due):
        assert 0.5 * at + 1.9 * at**2 / 2 == pytest.approx(number, abs=1e-6)
    assert due[-1] < 10


def test_poisson_arrivals_have_exponential_gaps_and_a_seed() -> None:
    plan = options(rate=50, duration="200s", arrivals="poisson", seed=3)
    due = list(due_times(plan))
    gaps = [b - a for a, b in itertools.pairwise(due)]
    assert len(due) == pytest.approx(10_000, rel=0.04)
    assert statistics.mean(gaps) == pytest.approx(0.02, rel=0.04)
    assert statistics.stdev(gaps) == pytest.approx(0.02, rel=0.06)
    assert due == list(due_times(plan))
    assert due != list(due_times(options(rate=50, duration="200s", arrivals="poisson", seed=4)))


@given(st.integers(1, 9), st.floats(0.5, 40), st.sampled_from(["constant", "poisson"]))
def test_shares_are_the_schedule_and_nothing_twice(shares: int, rate: float, arrivals: str) -> None:
    plan = options(rate=rate, duration="7s", arrivals=arrivals)
    shared = [order for share in range(shares) for order in worker_schedule(plan, share, shares)]
    assert sorted(shared) == list(enumerate(due_times(plan)))


def test_a_late_schedule_is_not_re_based() -> None:
    sent: list[tuple[int, float, float]] = []

    def send(number: int, due: float) -> None:
        sent.append((number, due, time.perf_counter()))
        if number == 3:
            time.sleep(0.3)  # Nobody else gets a turn: the generator's process is stalled.

    began = time.perf_counter()
    OpenLoop(iter([(n, n * 0.02) for n in range(20)]), send).run(began)

    assert [due - began for _, due, _ in sent] == pytest.approx([n * 0.02 for n in range(20)])
    lags = [at - due for _, due, at in sent]
    assert lags[4] > 0.25, "the lag is seen, and the order counts from when it was due"
    assert lags[-1] < 0.05, "and is made up for, at once"


def test_an_open_loop_can_be_stopped() -> None:
    sent: list[int] = []

    def send(number: int, _due: float) -> None:
        sent.append(number)
        if len(sent) == 3:
            loop.stop()

    loop = OpenLoop(iter([(n, n * 0.05) for n in range(100)]), send)
    loop.run(time.perf_counter())
    assert sent == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("30s", 30), ("5m", 300), ("1m30s", 90), ("1h", 3600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert options(duration=text).seconds == seconds


@pytest.mark.parametrize("text", ["s", "0s", "-5s", "5 s", "1s1m", "nan", "5x"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match=f"duration must be a duration such as 30s, .*, not {text}."):
        options(duration=text)


def test_stages() -> None:
    stages = options(stages="30s@2, 60s@10,30s@2..8").stages
    assert stages == (Stage(30, 2, 2), Stage(60, 10, 10), Stage(30, 2, 8))


@pytest.mark.parametrize("text", ["30s", "30s@", "30s@x", "30s@0", "30s@2..", "30s@1,,30s@1", "@2", "0s@2"])
def test_unreadable_stages(text: str) -> None:
    with pytest.raises(UsageError, match="stages must be steps such as"):
        options(stages=text)


def test_options_survive_a_message() -> None:
    plan = options(stages="3s@1..4,2s@2", chaos="1s kill api", faults="lossy", compare="x", seed="9")
    assert RunOptions.from_json(plan.to_json()) == plan


def test_chaos() -> None:
    assert parse_chaos("40s restart postgres, 1m kill order-worker", 300) == (
        Disturbance(40, "restart", "postgres"),
        Disturbance(60, "kill", "order-worker"),
    )
    times = [each.at_seconds for each in parse_chaos("every 60s kill order-worker", 300)]
    assert times == [60, 120, 180, 240]


@pytest.mark.parametrize("text", ["kill api", "5s hug api", "5s kill", "400s kill api", "every 0s kill api"])
def test_unreadable_chaos(text: str) -> None:
    with pytest.raises(UsageError, match="chaos"):
        parse_chaos(text, 300)


def test_how_many_orders_prove_a_target() -> None:
    assert orders_needed(0, 0.99) == 299
    assert orders_needed(0, 0.95) == 59
    for late in (0, 1, 5):
        needed = orders_needed(late, 0.99)
        assert evaluate_slo(needed, late, 0.99).verdict is SloVerdict.MET
        assert evaluate_slo(needed - 1, late, 0.99).verdict is not SloVerdict.MET


@given(st.floats(2, 100), st.sampled_from([0.9, 0.95, 0.99]), st.sampled_from([1, 4]))
def test_a_probe_is_long_enough_for_some_late_orders(rate: float, target: float, late: int) -> None:
    plan = SearchPlan(min_rate=2, max_rate=100, precision=0.1, seconds=1, target=target)
    planned = options(rate=rate, duration=f"{plan.probe_seconds(rate, late)}s").orders_at_rate
    assert evaluate_slo(planned, late, target).verdict is SloVerdict.MET


def _found(rate: float, finding: Finding, code: ExitCode = ExitCode.PASSED) -> Probe:
    late = 50 if finding is Finding.BREACHED else 0
    return Probe(
        rate, "p", finding, "v", 1_000, late, late / 1_000, 0.1, 2_000.0, 4_000.0 + rate, exit_code=int(code)
    )


def _probe(capacity: float, rate: float) -> Probe:
    return _found(rate, Finding.HELD if rate <= capacity else Finding.BREACHED)


def searched(plan: SearchPlan, probe: Callable[[float, int], Probe]) -> list[Probe]:
    return search(plan, probe, lambda _: None, lambda: None)


@given(st.floats(2, 99))
def test_the_search_finds_the_capacity(capacity: float) -> None:
    plan = SearchPlan(min_rate=2, max_rate=100, precision=0.1, seconds=30, target=0.99)
    probes = searched(plan, lambda rate, _: _probe(capacity, rate))
    found = capacity_of(probes)
    assert found is not None
    assert found <= capacity <= found * 1.1 + 1e-9
    assert len(probes) <= 15


def test_the_search_ends_when_the_answer_is_clear() -> None:
    plan = SearchPlan(min_rate=2, max_rate=10, precision=0.1, seconds=30, target=0.99)
    nothing_holds = searched(plan, lambda rate, _: _probe(0, rate))
    assert [probe.rate for probe in nothing_holds] == [2]
    assert capacity_of(nothing_holds) is None
    everything_holds = searched(plan, lambda rate, _: _probe(1_000, rate))
    assert everything_holds[-1].rate == 10
    assert capacity_text(everything_holds, 2) == "10 orders/s"
    assert capacity_text(nothing_holds, 2) == "below 2 orders/s"


def test_a_probe_that_decides_nothing_is_made_again_and_longer() -> None:
    plan = SearchPlan(min_rate=8, max_rate=18, precision=0.1, seconds=30, target=0.99)

    def probe(rate: float, late: int) -> Probe:
        """Up to 10/s is held when there is time to see it, and up to 15/s nobody can tell."""
        decides = rate > 15 or (rate <= 10 and late == RETRY_LATE_ALLOWANCE)
        return _probe(10, rate) if decides else _found(rate, Finding.UNDECIDED, ExitCode.NOT_PROVEN)

    probes = searched(plan, probe)
    assert [probe.rate for probe in probes[:4]] == [8, 8, 12, 12]
    assert capacity_text(probes, 8) == "9.8 orders/s, undecided at 10.3, 10.8, 12"


def test_a_search_says_which_rate_was_breached() -> None:
    plan = SearchPlan(min_rate=8, max_rate=100, precision=0.1, seconds=30, target=0.99)
    assert (
        capacity_text(searched(plan, lambda rate, _: _probe(10, rate)), 8) == "9.8 orders/s, breached at 10.3"
    )
    nothing = searched(plan, lambda rate, _: _found(rate, Finding.UNDECIDED, ExitCode.NOT_PROVEN))
    assert capacity_text(nothing, 8) == "unknown, undecided at 8"


def test_an_invalid_probe_is_made_again_when_the_machine_has_recovered() -> None:
    plan = SearchPlan(min_rate=2, max_rate=2, precision=0.1, seconds=30, target=0.99)
    invalid, held = _found(2, Finding.UNDECIDED, ExitCode.INVALID_RUN), _probe(9, 2)
    made, recovered = [invalid, held], []
    assert search(plan, lambda *_: made.pop(0), lambda _: None, lambda: recovered.append(1)) == [
        invalid,
        held,
    ]
    assert len(recovered) == 1
    again = searched(plan, lambda *_: invalid)
    assert again == [invalid, invalid]
    assert again[-1].stop_reason == "the run at 2/s was invalid, see run p"


@pytest.mark.parametrize(
    ("code", "late", "stopped_after", "finding"),
    [
        (ExitCode.PASSED, 1, None, Finding.HELD),
        (ExitCode.NOT_PROVEN, 2, 20.0, Finding.UNDECIDED),
        (ExitCode.LIMIT_BREACHED, 3, 20.0, Finding.UNDECIDED),  # of 200 a breach, of 473 perhaps none
        (ExitCode.LIMIT_BREACHED, 5, 20.0, Finding.BREACHED),
        (ExitCode.LIMIT_BREACHED, 3, None, Finding.BREACHED),
        (ExitCode.INVALID_RUN, 0, None, Finding.UNDECIDED),
    ],
)
def test_what_a_verdict_says_of_a_rate(
    code: ExitCode, late: int, stopped_after: float | None, finding: Finding
) -> None:
    limit = {"orders": 200, "late": late, "target": 0.99}
    told = {"exit_code": int(code), "limit": limit}
    told["run"] = {"planned": 473, "stopped_after_seconds": stopped_after}
    assert finding_of(told) is finding


@pytest.mark.parametrize("mean", [2.5, 8.0])
def test_moments_of_a_life_are_drawn_from_what_orders_live(mean: float) -> None:
    random = Random(1)
    lifetimes = SurvivalCurve()
    assert lifetimes.span_seconds() == 5.0, "until it is known"
    spans = []
    for _ in range(1_000):
        lives = random.gauss(mean, 0.2 * mean)
        cancelled_at = random.uniform(0, lifetimes.span_seconds())
        if cancelled_at < lives:
            lifetimes.add_censored(cancelled_at)
        else:
            lifetimes.add_finished(lives)
        spans.append(lifetimes.span_seconds())
    # Nine of ten live up to 1.26 times the mean; few of those that are cancelled show it.
    assert 1.1 * mean < statistics.median(spans[200:]) < 1.5 * mean
    assert all(mean < span < 2.5 * mean for span in spans[200:])


def test_the_capacity_is_drawn(tmp_path: Path) -> None:
    plan = SearchPlan(min_rate=2, max_rate=20, precision=0.2, seconds=30, target=0.99)
    probes = searched(plan, lambda rate, _: _probe(9, rate))
    files = {file.name: file for file in write_results(probes, plan, 15.0, tmp_path / "c")}
    page = files["capacity.html"].read_text()
    assert "late, %" in page
    assert "p99, s" in page
