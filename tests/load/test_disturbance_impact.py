"""Impact of disturbances: late orders and recovery time."""

from random import Random
from typing import Any

import pytest

from loadtest.chaos.disturbance_impact import impact_of
from loadtest.generator.recording import Ending, OrderRecord
from tests.load.records import record, records, rows, verdict_of


def disturbance(at: float) -> dict[str, Any]:
    return {"at_seconds": at, "verb": "kill", "target": "order-worker-1", "problem": None}


def five_per_second(seconds: int, slow: range, slow_ms: float) -> list[OrderRecord]:
    """Return orders that take 1 s, and `slow_ms` in the seconds of `slow`."""
    return [
        record(
            n,
            n / 5,
            completion_ms=slow_ms if n // 5 in slow else 1_000.0 + n % 7,
            late=slow_ms > 15_000 and n // 5 in slow,
        )
        for n in range(5 * seconds)
    ]


def test_recovery_time_after_a_disturbance() -> None:
    records = five_per_second(60, slow=range(20, 26), slow_ms=4_000.0)
    found = impact_of([disturbance(20.0)], records, 15.0)[0]
    assert found["late_after"] == 0
    assert found["former_level_ms"] == pytest.approx(1_003, abs=3)
    # The last slow order is due at 25.8 s; the median of ten in a row is normal from the 25th second on.
    assert found["recovery_seconds"] == pytest.approx(5.0, abs=1.0)


def test_a_disturbance_without_effect() -> None:
    found = impact_of([disturbance(20.0)], five_per_second(60, range(0), 0.0), 15.0)[0]
    assert found["recovery_seconds"] == 0.0


def varying(random: Random, seconds: int = 120, affected: range = range(0)) -> list[OrderRecord]:
    """Return five orders per second with the completion times of the `assignment` faults, 4 s longer in the
    seconds of `affected`."""
    return [
        record(n, n / 5, completion_ms=2_000 + random.gammavariate(2.5, 750.0) + 4_000 * (n // 5 in affected))
        for n in range(5 * seconds)
    ]


def test_random_variation_is_not_reported_as_an_effect() -> None:
    random = Random(7)
    disturbances = [disturbance(40.0), disturbance(70.0), disturbance(100.0)]
    found = [each for _ in range(60) for each in impact_of(disturbances, varying(random), 15.0)]
    assert sum(each["recovery_seconds"] != 0 for each in found) <= 5, "of 180"


def test_an_effect_is_detected_despite_random_variation() -> None:
    random = Random(8)
    for _ in range(20):
        (found,) = impact_of([disturbance(40.0)], varying(random, affected=range(41, 49)), 15.0)
        assert found["recovery_seconds"] == pytest.approx(8.0, abs=3.0)


def test_a_rise_after_the_limit_is_not_attributed_to_the_disturbance() -> None:
    records = five_per_second(80, slow=range(60, 66), slow_ms=4_000.0)
    assert impact_of([disturbance(20.0)], records, 15.0)[0]["recovery_seconds"] == 0.0


def test_rejected_orders_are_attributed_to_the_disturbance_before_them() -> None:
    nothing = dict.fromkeys(("accept_ms", "accepted", "completion_ms", "outcome"))
    shed = [
        record(n, 25.0, late=True, end_to_end_ms=20.0, ending=Ending.REJECTED.value, **nothing)
        for n in range(500, 507)
    ]
    records = five_per_second(60, range(0), 0.0) + shed
    first, second = impact_of([disturbance(20.0), disturbance(30.0)], records, 15.0)
    assert (first["late_after"], second["late_after"]) == (7, 0)


def test_completion_time_that_does_not_recover() -> None:
    found = impact_of([disturbance(20.0)], five_per_second(60, range(20, 60), 4_000.0), 15.0)[0]
    assert found["recovery_seconds"] is None


def test_orders_that_never_finish_count_as_infinitely_slow() -> None:
    before = five_per_second(20, range(0), 0.0)
    nothing = dict.fromkeys(("completion_ms", "end_to_end_ms", "outcome"))
    stuck = [record(n, n / 5, late=True, ending=Ending.UNFINISHED.value, **nothing) for n in range(100, 200)]
    found = impact_of([disturbance(20.0)], before + stuck, 15.0)[0]
    assert (found["late_after"], found["too_few_after"]) == (100, False)
    assert found["recovery_seconds"] is None
    assert "did not return to its earlier level" in disturbance_row(found)


def disturbance_row(disturbance: dict[str, Any]) -> str:
    report = verdict_of(records(400)).report | {"disturbances": [disturbance]}
    return rows(report)[f"kill order-worker-1 at {disturbance['at_seconds']:.1f} s"]


def test_too_few_orders_after_the_disturbance() -> None:
    records = five_per_second(22, range(0), 0.0)
    found = impact_of([disturbance(21.5)], records, 15.0)[0]
    assert found["former_level_ms"] is not None
    assert found["recovery_seconds"] is None
    assert disturbance_row(found) == (
        "0 late orders in the 15 s after it (0.0 expected without it); "
        "too few orders after it to measure an effect on completion time"
    )


def test_each_late_order_is_attributed_to_one_disturbance() -> None:
    records = five_per_second(60, slow=range(20, 22), slow_ms=16_000.0)
    first, second = impact_of([disturbance(20.0), disturbance(50.0)], records, 15.0)
    assert (first["late_after"], second["late_after"]) == (10, 0)


def test_late_orders_after_a_disturbance_are_shown_beside_the_number_expected_without_it() -> None:
    # One order in 25 is late all the time: one in 5 s.
    records = [record(n, n / 5, completion_ms=16_000.0, late=n % 25 == 0) for n in range(5 * 100)]
    first, second = impact_of([disturbance(40.0), disturbance(90.0)], records, 15.0)
    assert (first["late_after"], first["late_expected"], first["seconds_after"]) == (10, 10.0, 50.0)
    assert (second["late_after"], second["late_expected"]) == (5, pytest.approx(5.0, abs=0.1))
    assert disturbance_row(first).startswith(
        "10 late orders in the 50 s after it (10.0 expected without it); "
    )


def test_without_a_limit_that_passed_before_it_no_number_is_expected() -> None:
    (found,) = impact_of([disturbance(10.0)], five_per_second(60, range(0), 0.0), 15.0)
    assert found["late_expected"] is None
    assert "(unknown how many without it)" in disturbance_row(found)


def test_rejected_orders_before_the_disturbance_do_not_raise_the_expected_number() -> None:
    # One order in 5 is rejected at once. When the first disturbance is made, those sent in the last 15 s are
    # known to be late, and the accepted ones not yet.
    rejected = {"accepted": None, "completion_ms": None, "outcome": None, "ending": Ending.REJECTED.value}
    records = [
        record(n, n / 5, late=n % 5 == 0, end_to_end_ms=20.0, **(rejected if n % 5 == 0 else {}))
        for n in range(5 * 60)
    ]
    (found,) = impact_of([disturbance(20.0)], records, 15.0)
    assert found["late_expected"] / found["late_after"] == pytest.approx(1.0, abs=0.1)
    (found,) = impact_of([disturbance(16.0)], records, 15.0)
    assert found["late_expected"] is None, "five orders are too few"


def test_a_disturbance_that_was_not_carried_out_ends_no_period() -> None:
    records = five_per_second(60, slow=range(30, 32), slow_ms=16_000.0)
    failed = disturbance(30.0) | {"problem": "it is not running"}
    first, _ = impact_of([disturbance(20.0), failed], records, 15.0)
    assert (first["late_after"], first["late_expected"]) == (10, 0.0)


def test_a_verdict_of_an_earlier_release_has_late_orders_without_a_baseline() -> None:
    (found,) = impact_of([disturbance(20.0)], five_per_second(60, range(0), 0.0), 15.0)
    for name in ("late_after", "late_expected", "seconds_after"):
        del found[name]
    assert disturbance_row(found | {"made_late": 3}).startswith("3 late orders after it; ")


def test_too_few_orders_before_the_disturbance() -> None:
    found = impact_of([disturbance(1.0)], five_per_second(10, range(0), 0.0), 15.0)[0]
    assert found["former_level_ms"] is None
    assert found["recovery_seconds"] is None


def test_rows_of_a_verdict_with_a_failed_disturbance() -> None:
    report = verdict_of(records(400, late=1)).report | {"report_dir": "x"}
    report["disturbances"] = impact_of(
        [disturbance(3.0) | {"problem": "it is not running"}], records(400), 15.0
    )
    text = rows(report)
    assert text["limit"].startswith("not proven: 1 late of 400 (15 s)")
    assert text["kill order-worker-1 at 3.0 s"] == "not carried out: it is not running"
