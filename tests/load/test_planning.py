"""Schedules and options, as pure functions."""

import itertools
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.chaos.disturbance import PlannedDisturbance, parse_chaos
from loadtest.generator.arrivals import OpenLoop, due_times, planned_orders, worker_schedule
from loadtest.options import RunOptions, Stage
from orchestrator.errors import UsageError


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
        PlannedDisturbance(40, "restart", "postgres"),
        PlannedDisturbance(60, "kill", "order-worker"),
    )
    times = [each.at_seconds for each in parse_chaos("every 60s kill order-worker", 300)]
    assert times == [60, 120, 180, 240]


@pytest.mark.parametrize("text", ["kill api", "5s hug api", "5s kill", "400s kill api", "every 0s kill api"])
def test_unreadable_chaos(text: str) -> None:
    with pytest.raises(UsageError, match="chaos"):
        parse_chaos(text, 300)
