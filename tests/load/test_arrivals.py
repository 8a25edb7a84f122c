"""Arrival schedules and the open loop."""

import itertools
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.generator.arrivals import OpenLoop, due_times, planned_orders, worker_schedule
from loadtest.options import RunOptions


def options(**given: object) -> RunOptions:
    return RunOptions.parse({"run_id": "r", **given})


def test_a_constant_schedule_is_absolute() -> None:
    due = list(due_times(options(rate=4, duration="2s")))
    assert due == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75])


def test_steps_follow_each_other_without_a_gap() -> None:
    due = list(due_times(options(stages="2s@1,1s@4,2s@1")))
    assert due == pytest.approx([0, 1, 2, 2.25, 2.5, 2.75, 3, 4])


def test_a_ramp_integrates_its_rate() -> None:
    plan = options(stages="10s@0.5..19.5")
    due = list(due_times(plan))
    assert len(due) == planned_orders(plan) == 100
    # After t seconds rate·t + slope·t²/2 orders are due.
    for number, at in enumerate(due):
        assert 0.5 * at + 1.9 * at**2 / 2 == pytest.approx(number, abs=1e-6)
    assert due[-1] < 10


def test_poisson_arrivals_have_exponential_gaps_and_follow_the_seed() -> None:
    plan = options(rate=50, duration="200s", arrivals="poisson", seed=3)
    due = list(due_times(plan))
    gaps = [b - a for a, b in itertools.pairwise(due)]
    assert len(due) == pytest.approx(10_000, rel=0.04)
    assert statistics.mean(gaps) == pytest.approx(0.02, rel=0.04)
    assert statistics.stdev(gaps) == pytest.approx(0.02, rel=0.06)
    assert due == list(due_times(plan))
    assert due != list(due_times(options(rate=50, duration="200s", arrivals="poisson", seed=4)))


@given(st.integers(1, 9), st.floats(0.5, 40), st.sampled_from(["constant", "poisson"]))
def test_the_workers_together_send_the_schedule_once(workers: int, rate: float, arrivals: str) -> None:
    plan = options(rate=rate, duration="7s", arrivals=arrivals)
    sent = [order for index in range(workers) for order in worker_schedule(plan, index, workers)]
    assert sorted(sent) == list(enumerate(due_times(plan)))


def test_a_delayed_schedule_is_not_re_based() -> None:
    sent: list[tuple[int, float, float]] = []

    def send(number: int, due: float) -> None:
        sent.append((number, due, time.perf_counter()))
        if number == 3:
            time.sleep(0.3)  # Blocks all greenlets, as a stalled process does.

    began = time.perf_counter()
    OpenLoop(iter([(n, n * 0.02) for n in range(20)]), send).run(began)

    assert [due - began for _, due, _ in sent] == pytest.approx([n * 0.02 for n in range(20)])
    delays = [at - due for _, due, at in sent]
    assert delays[4] > 0.25, "the due time does not move with the delay"
    assert delays[-1] < delays[4] / 2, "the loop catches up by sending delayed orders without a pause"


def test_an_open_loop_can_be_stopped() -> None:
    sent: list[int] = []

    def send(number: int, _due: float) -> None:
        sent.append(number)
        if len(sent) == 3:
            loop.stop()

    loop = OpenLoop(iter([(n, n * 0.05) for n in range(100)]), send)
    loop.run(time.perf_counter())
    assert sent == [0, 1, 2]
