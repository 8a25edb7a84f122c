"""SLO results: counts, and the upper bound of the late share."""

import time

import pytest

from loadtest.verdict.slo import SloVerdict, evaluate_slo, orders_needed, upper_bound


def test_a_late_share_equal_to_the_allowed_share_is_not_a_breach() -> None:
    # 1 - 0.9 as floats is less than a tenth.
    assert evaluate_slo(100, 10, 0.9).verdict is SloVerdict.NOT_PROVEN
    assert evaluate_slo(100, 11, 0.9).verdict is SloVerdict.BREACHED
    for late, target in ((1, 0.99), (3, 0.97), (5, 0.95), (7, 0.93), (20, 0.8), (30, 0.7), (45, 0.55)):
        assert evaluate_slo(100, late, target).verdict is SloVerdict.NOT_PROVEN


def test_a_stopped_run_is_breached_only_if_the_complete_run_would_be() -> None:
    assert evaluate_slo(76, 1, 0.99).verdict is SloVerdict.BREACHED
    assert evaluate_slo(76, 1, 0.99, planned=300).verdict is SloVerdict.NOT_PROVEN
    assert evaluate_slo(76, 3, 0.99, planned=300).verdict is SloVerdict.NOT_PROVEN
    assert evaluate_slo(76, 4, 0.99, planned=300).verdict is SloVerdict.BREACHED
    assert evaluate_slo(299, 0, 0.99, planned=5_000).verdict is SloVerdict.MET
    assert evaluate_slo(0, 0, 0.99, planned=300).verdict is SloVerdict.NOT_PROVEN


def test_the_upper_bound_is_exact() -> None:
    for orders in (1, 7, 300, 100_000):
        # None late: (1 - p)^n is 5 %; all but one: 1 - p^n is.
        assert upper_bound(0, orders) == pytest.approx(1 - 0.05 ** (1 / orders), rel=1e-9)
        assert upper_bound(orders - 1, orders) == pytest.approx(0.95 ** (1 / orders), rel=1e-9)
    # Clopper and Pearson 1934; the upper ends of two-sided intervals of 95 %.
    for late, orders, bound in ((1, 10, 0.4450), (5, 10, 0.8129), (10, 100, 0.1762), (500, 1_000, 0.53145)):
        assert upper_bound(late, orders, 0.975) == pytest.approx(bound, abs=5e-5)


def test_the_upper_bound_takes_less_than_5_ms() -> None:
    began = time.process_time()
    for late in range(5_000, 5_050):
        upper_bound(late, 50_000)
    assert (time.process_time() - began) / 50 < 0.005


def test_orders_needed_is_the_smallest_number_that_proves_the_target() -> None:
    assert orders_needed(0, 0.99) == 299
    assert orders_needed(0, 0.95) == 59
    for late in (0, 1, 5):
        needed = orders_needed(late, 0.99)
        assert evaluate_slo(needed, late, 0.99).verdict is SloVerdict.MET
        assert evaluate_slo(needed - 1, late, 0.99).verdict is not SloVerdict.MET
