"""Verdict on a run: validity, SLO result and audit."""

from dataclasses import replace
from typing import Any

import pytest

from loadtest.generator.arrivals import due_times
from loadtest.generator.recording import Ending
from loadtest.options import RunOptions
from loadtest.verdict.slo import SloVerdict
from orchestrator.errors import ExitCode
from tests.load.records import AUDIT, record, records, rows, verdict_of


def test_met_breached_and_not_proven() -> None:
    assert verdict_of(records(400)).code is ExitCode.PASSED
    assert verdict_of(records(400, late=5)).code is ExitCode.LIMIT_BREACHED
    not_proven = verdict_of(records(400, late=2))
    assert not_proven.code is ExitCode.NOT_PROVEN
    assert "more orders, all of them on time" in rows(not_proven.report)["limit"]


def test_a_run_that_was_stopped_early_is_judged_by_its_plan() -> None:
    # 400 are planned, and 4 of them may be late.
    assert verdict_of(records(76, late=1), stopped_after=7.6).code is ExitCode.NOT_PROVEN
    assert verdict_of(records(76, late=5), stopped_after=7.6).code is ExitCode.LIMIT_BREACHED
    closed = RunOptions.parse({"run_id": "r", "rate": 10, "duration": "40s", "arrivals": "closed"})
    assert verdict_of(records(76, late=1), stopped_after=7.6, options=closed).code is ExitCode.NOT_PROVEN


def test_a_run_that_sent_less_than_95_percent_of_its_plan_is_invalid() -> None:
    found = verdict_of(records(379))  # of 400
    assert found.code is ExitCode.INVALID_RUN
    assert found.problems == ["only 379 of 400 planned orders were sent"]
    assert verdict_of(records(380)).code is ExitCode.PASSED
    assert verdict_of(records(379), stopped_after=37.9).code is ExitCode.PASSED, "stopped on request"


def test_a_poisson_run_is_compared_with_its_own_schedule() -> None:
    poisson = RunOptions.parse(
        {"run_id": "r", "rate": 1, "duration": "400s", "arrivals": "poisson", "seed": 5}
    )
    scheduled = len(list(due_times(poisson)))
    assert scheduled != poisson.orders_at_rate
    whole = verdict_of(records(scheduled), options=poisson)
    assert whole.code is ExitCode.PASSED
    assert rows(whole.report)["run"].startswith(f"{scheduled} of {scheduled} orders sent")
    half = verdict_of(records(scheduled // 2), options=poisson)
    assert half.problems == [f"only {scheduled // 2} of {scheduled} planned orders were sent"]


def test_a_closed_loop_has_no_planned_order_count() -> None:
    closed = RunOptions.parse({"run_id": "r", "rate": 10, "duration": "40s", "arrivals": "closed"})
    found = verdict_of(records(300), options=closed)
    assert found.code is ExitCode.PASSED
    assert rows(found.report)["run"].startswith("300 orders sent")


def test_an_unfinished_drain_makes_the_run_invalid() -> None:
    found = verdict_of(records(400), is_drained=False)
    assert found.code is ExitCode.INVALID_RUN
    assert found.problems == ["a generator process did not report all of its orders in time"]


def test_skipped_orders_make_the_run_invalid_when_they_could_change_the_result() -> None:
    skipped = {"offered": 402, "skipped": 2}
    found = verdict_of(records(400), report=skipped)
    assert found.code is ExitCode.INVALID_RUN
    assert "0 orders were sent more than 250 ms late and 2 were not sent" in found.problems[0]
    # Two orders on time could not change this breach.
    assert verdict_of(records(400, late=100), report=skipped).code is ExitCode.LIMIT_BREACHED


def test_verdict_on_ten_thousand_orders() -> None:
    found = verdict_of(records(10_000, late=10))
    assert (found.slo.orders, found.slo.late, found.slo.verdict) == (10_000, 10, SloVerdict.MET)


def test_rejected_orders_are_excluded_from_the_slo_when_the_run_allows_it() -> None:
    nothing = dict.fromkeys(("accept_ms", "accepted", "completion_ms", "end_to_end_ms", "outcome"))
    shed = nothing | {"ending": Ending.REJECTED.value}
    orders = records(400) + [record(n, **shed) for n in range(400, 1_000)]
    found = verdict_of(orders)
    assert found.code is ExitCode.PASSED
    assert (found.slo.orders, found.slo.late, found.report["run"]["rejected"]) == (400, 0, 600)
    assert "600 rejected (429)" in rows(found.report)["run"]
    as_late = [replace(each, late=each.ending == Ending.REJECTED) for each in orders]
    assert verdict_of(as_late).slo.late == 600


def test_a_run_without_orders_is_invalid() -> None:
    found = verdict_of([])
    assert found.code is ExitCode.INVALID_RUN
    assert found.problems[0] == "no order was sent"


def test_a_broken_invariant_outranks_an_invalid_run() -> None:
    broken = AUDIT | {"clean": False, "violations": [{"order_id": "a", "finding": "twice", "invariant": 3}]}
    assert verdict_of(records(400), audit=broken, lost_workers=1).code is ExitCode.INVARIANT_BROKEN
    assert verdict_of(records(400), lost_workers=1).code is ExitCode.INVALID_RUN
    promise = verdict_of(records(400), report={"broken_promises": ["x: it completed"]})
    assert promise.code is ExitCode.INVARIANT_BROKEN


def test_orders_of_a_lost_process_count_as_late_and_make_the_run_invalid() -> None:
    found = verdict_of(records(400), report={"offered": 410})
    assert found.slo.late == 10
    assert found.code is ExitCode.INVALID_RUN


@pytest.mark.parametrize(
    ("delayed", "late", "invalid"),
    [
        (0, 0, False),
        (1, 0, False),  # one late order of a thousand could not change the result
        (30, 0, True),  # sent on time, all thirty could have been late
        (8, 8, True),  # sent on time, none of the eight might have been late
    ],
)
def test_send_delay_makes_the_run_invalid_when_it_could_change_the_result(
    delayed: int, late: int, invalid: bool
) -> None:
    orders = 1_000
    records = [record(n, late=n < late, send_delay_ms=300.0 if n < delayed else 1.0) for n in range(orders)]
    found = verdict_of(records)
    assert (found.code is ExitCode.INVALID_RUN) is invalid
    assert any("which could change the SLO result" in problem for problem in found.problems) is invalid


def test_send_delay_that_cannot_change_the_result_leaves_a_breach_valid() -> None:
    records = [record(n, late=n < 500, send_delay_ms=300.0 if n > 990 else 1.0) for n in range(1_000)]
    assert verdict_of(records).code is ExitCode.LIMIT_BREACHED


def test_a_generator_that_sends_too_few_orders_on_time_makes_the_run_invalid() -> None:
    records = [record(n, late=True, send_delay_ms=300.0 if n % 10 == 0 else 1.0) for n in range(1_000)]
    found = verdict_of(records)
    assert found.code is ExitCode.INVALID_RUN
    assert "sent only 90.0% of the orders on time" in found.problems[0]


def test_a_run_without_an_audit_is_invalid() -> None:
    found = verdict_of(records(400), audit=None)
    assert found.code is ExitCode.INVALID_RUN
    assert found.report["database"]["clean"] is False


@pytest.mark.parametrize(
    ("partial", "problem"),
    [
        ({"uncompared": 3}, "3 orders were not compared with their workflows"),
        ({"finished": 397, "open": 0}, "the audit covers 397 of 400 accepted orders"),
    ],
)
def test_a_partial_audit_makes_the_run_invalid(partial: dict[str, Any], problem: str) -> None:
    found = verdict_of(records(400), audit=AUDIT | partial)
    assert found.code is ExitCode.INVALID_RUN
    assert found.problems == [problem]


def test_orders_sent_late_reduce_the_offered_rate() -> None:
    on_time = [record(n, n / 10) for n in range(400)]
    assert verdict_of(on_time).report["run"]["offered_rate"] == 10
    last_late = [*on_time[:-1], replace(on_time[-1], send_delay_ms=10_100.0)]
    assert verdict_of(last_late).report["run"]["offered_rate"] == 8
