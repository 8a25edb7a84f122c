"""Survival curve of orders, with cancelled orders as censored samples."""

import statistics
from random import Random

import pytest

from loadtest.generator.survival import SurvivalCurve


@pytest.mark.parametrize("mean", [2.5, 8.0])
def test_censored_orders_do_not_bias_the_survival_curve(mean: float) -> None:
    random = Random(1)
    survival = SurvivalCurve()
    assert survival.span_seconds() == 5.0, "the default, without samples"
    spans = []
    for _ in range(1_000):
        finished_at = random.gauss(mean, 0.2 * mean)
        cancelled_at = random.uniform(0, survival.span_seconds())
        if cancelled_at < finished_at:
            survival.add_censored(cancelled_at)
        else:
            survival.add_finished(finished_at)
        spans.append(survival.span_seconds())
    # The 90th percentile of a normal distribution with this deviation is 1.26 times the mean.
    assert 1.1 * mean < statistics.median(spans[200:]) < 1.5 * mean
    assert all(mean < span < 2.5 * mean for span in spans[200:])
