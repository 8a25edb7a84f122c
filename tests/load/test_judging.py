"""Verdicts, effects of disturbances and comparisons, from records that are made up."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any
from xml.etree import ElementTree

import pytest

from db.runs import StoredRun
from loadtest.chaos import disturbance_impact
from loadtest.generator.arrivals import due_times
from loadtest.generator.recording import Ending, OrderRecord, Report, Tally
from loadtest.options import RunOptions
from loadtest.reports.documents import junit, markdown, orders_csv
from loadtest.verdict import comparison as comparing
from loadtest.verdict.comparison import compare, differences, late_share_interval
from loadtest.verdict.percentiles import per_second, percentile, spread
from loadtest.verdict.run_verdict import Evidence, decide
from loadtest.verdict.slo import LimitVerdict, judge, upper_bound
from loadtest.verdict.verdict_text import comparison_text, facts
from orchestrator.exit_codes import ExitCode

AUDIT = {"clean": True, "judged": 10_000, "open": 0, "late": 0, "workflows_checked": 10_000,
         "uncompared": 0, "violations": []}  # fmt: skip


def record(number: int, due: float = 0.0, **known: Any) -> OrderRecord:
    usual = {"lag_ms": 1.0, "accept_ms": 10.0, "accepted": due + 0.01, "completion_ms": 1_000.0,
             "end_to_end_ms": 1_010.0, "outcome": "completed", "ending": Ending.OUTCOME.value}  # fmt: skip
    return OrderRecord(number, due, **(usual | known))


def evidence(records: list[OrderRecord], **known: Any) -> Evidence:
    tally = Tally()
    told = {"offered": len(records), "skipped": 0, "broken_promises": []} | known.pop("report", {})
    tally.take(
        Report(
            share=0, open=0, overdue=0, cpu_seconds=1.0, seconds=10.0, requests={}, records=records, **told
        )
    )
    now = datetime.now(UTC)
    usual = {"audit": AUDIT, "latency": None, "started_at": now, "ended_at": now, "processes": 1}
    options = RunOptions.parse({"run_id": "r", "rate": 10, "duration": "40s", "slo_target": 0.99})
    return Evidence(**({"options": options, "tally": tally} | usual | known))


def plain(orders: int, late: int = 0) -> list[OrderRecord]:
    return [record(n, late=n < late) for n in range(orders)]


def test_met_breached_and_not_proven() -> None:
    assert decide(evidence(plain(400))).code is ExitCode.PASSED
    assert decide(evidence(plain(400, late=5))).code is ExitCode.LIMIT_BREACHED
    not_proven = decide(evidence(plain(400, late=2)))
    assert not_proven.code is ExitCode.NOT_PROVEN
    assert "more orders without another late one" in facts(not_proven.told)["limit"]


def test_a_share_that_is_exactly_kept_is_no_breach() -> None:
    # 1 - 0.9 as floats is less than a tenth.
    assert judge(100, 10, 0.9).verdict is LimitVerdict.NOT_PROVEN
    assert judge(100, 11, 0.9).verdict is LimitVerdict.BREACHED
    for late, target in ((1, 0.99), (3, 0.97), (5, 0.95), (7, 0.93), (20, 0.8), (30, 0.7), (45, 0.55)):
        assert judge(100, late, target).verdict is LimitVerdict.NOT_PROVEN


def test_the_bound_is_exact() -> None:
    for orders in (1, 7, 300, 100_000):
        # None late: (1 - p)^n is 5 %; all but one: 1 - p^n is.
        assert upper_bound(0, orders) == pytest.approx(1 - 0.05 ** (1 / orders), rel=1e-9)
        assert upper_bound(orders - 1, orders) == pytest.approx(0.95 ** (1 / orders), rel=1e-9)
    # Clopper and Pearson 1934; the upper ends of two-sided intervals of 95 %.
    for late, orders, bound in ((1, 10, 0.4450), (5, 10, 0.8129), (10, 100, 0.1762), (500, 1_000, 0.53145)):
        assert upper_bound(late, orders, 0.975) == pytest.approx(bound, abs=5e-5)


def test_the_bound_is_quick_enough_for_the_generators_own_process() -> None:
    began = time.process_time()
    for late in range(5_000, 5_050):
        upper_bound(late, 50_000)
    assert (time.process_time() - began) / 50 < 0.005


def test_a_run_that_sent_a_part_of_its_plan_is_invalid() -> None:
    found = decide(evidence(plain(379)))  # of 400
    assert found.code is ExitCode.INVALID_RUN
    assert found.problems == ["only 379 of 400 planned orders were sent"]
    assert decide(evidence(plain(380))).code is ExitCode.PASSED
    assert decide(evidence(plain(379), stopped_after=37.9)).code is ExitCode.PASSED, "as somebody wanted"


def test_a_poisson_run_is_held_against_its_own_schedule() -> None:
    poisson = RunOptions.parse(
        {"run_id": "r", "rate": 1, "duration": "400s", "arrivals": "poisson", "seed": 5}
    )
    scheduled = len(list(due_times(poisson)))
    assert scheduled != poisson.orders_at_rate
    whole = decide(evidence(plain(scheduled), options=poisson))
    assert whole.code is ExitCode.PASSED
    assert facts(whole.told)["run"].startswith(f"{scheduled} of {scheduled} orders offered")
    half = decide(evidence(plain(scheduled // 2), options=poisson))
    assert half.problems == [f"only {scheduled // 2} of {scheduled} planned orders were sent"]


def test_a_closed_run_has_no_plan_to_be_held_against() -> None:
    closed = RunOptions.parse({"run_id": "r", "rate": 10, "duration": "40s", "arrivals": "closed"})
    found = decide(evidence(plain(300), options=closed))
    assert found.code is ExitCode.PASSED
    assert facts(found.told)["run"].startswith("300 orders offered")


def test_a_process_that_did_not_drain_makes_a_run_invalid() -> None:
    found = decide(evidence(plain(400), is_drained=False))
    assert found.code is ExitCode.INVALID_RUN
    assert found.problems == ["not every generating process has said in time that it drained"]


def test_skipped_orders_make_a_run_invalid_when_they_could_have_changed_the_answer() -> None:
    skipped = {"offered": 402, "skipped": 2}
    found = decide(evidence(plain(400), report=skipped))
    assert found.code is ExitCode.INVALID_RUN
    assert "0 orders were sent more than 250 ms late and 2 not at all" in found.problems[0]
    # Two on-time orders do not turn this breach.
    assert decide(evidence(plain(400, late=100), report=skipped)).code is ExitCode.LIMIT_BREACHED


def test_ten_thousand_orders_are_judged() -> None:
    found = decide(evidence(plain(10_000, late=10)))
    assert (found.limit.orders, found.limit.late, found.limit.verdict) == (10_000, 10, LimitVerdict.MET)


def test_orders_that_may_be_shed_are_counted_apart() -> None:
    nothing = dict.fromkeys(("accept_ms", "accepted", "completion_ms", "end_to_end_ms", "outcome"))
    shed = nothing | {"ending": Ending.SHED.value}
    records = plain(400) + [record(n, **shed) for n in range(400, 1_000)]
    found = decide(evidence(records))
    assert found.code is ExitCode.PASSED
    assert (found.limit.orders, found.limit.late, found.told["run"]["shed"]) == (400, 0, 600)
    assert "600 shed" in facts(found.told)["run"]
    as_late = [replace(each, late=each.ending == Ending.SHED) for each in records]
    assert decide(evidence(as_late)).limit.late == 600


def test_a_run_without_orders_proves_nothing() -> None:
    found = decide(evidence([]))
    assert found.code is ExitCode.INVALID_RUN
    assert found.problems[0] == "no order was sent"


def test_a_broken_invariant_outweighs_an_invalid_run() -> None:
    broken = AUDIT | {"clean": False, "violations": [{"order_id": "a", "finding": "twice", "invariant": 3}]}
    assert decide(evidence(plain(400), audit=broken, lost_workers=1)).code is ExitCode.INVARIANT_BROKEN
    assert decide(evidence(plain(400), lost_workers=1)).code is ExitCode.INVALID_RUN
    promise = evidence(plain(400), report={"broken_promises": ["x: it completed"]})
    assert decide(promise).code is ExitCode.INVARIANT_BROKEN


def test_orders_of_a_lost_process_count_as_late_and_make_the_run_invalid() -> None:
    found = decide(evidence(plain(400), report={"offered": 410}))
    assert found.limit.late == 10
    assert found.code is ExitCode.INVALID_RUN


@pytest.mark.parametrize(
    ("lagging", "late_ones", "late", "invalid"),
    [
        (0, 0, 0, False),
        (1, 0, 0, False),  # one late order of a thousand would not unsettle the proof
        (30, 0, 0, True),  # had they been on time, thirty might have been late
        (8, 8, 8, True),  # and these eight might not
    ],
)
def test_lag_makes_a_run_invalid_when_it_could_have_changed_the_answer(
    lagging: int, late_ones: int, late: int, invalid: bool
) -> None:
    orders = 1_000
    records = [record(n, late=n < late, lag_ms=300.0 if n < lagging else 1.0) for n in range(orders)]
    found = decide(evidence(records))
    assert (found.code is ExitCode.INVALID_RUN) is invalid
    assert any("enough to have changed the answer" in problem for problem in found.problems) is invalid


def test_lag_that_changes_nothing_leaves_a_breach_a_breach() -> None:
    records = [record(n, late=n < 500, lag_ms=300.0 if n > 990 else 1.0) for n in range(1_000)]
    assert decide(evidence(records)).code is ExitCode.LIMIT_BREACHED


def test_a_generator_that_held_too_little_of_its_rate() -> None:
    records = [record(n, late=True, lag_ms=300.0 if n % 10 == 0 else 1.0) for n in range(1_000)]
    found = decide(evidence(records))
    assert found.code is ExitCode.INVALID_RUN
    assert "held only 90.0%" in found.problems[0]


def test_books_that_were_not_audited_are_not_clean() -> None:
    found = decide(evidence(plain(400), audit=None))
    assert found.code is ExitCode.INVALID_RUN
    assert found.told["books"]["clean"] is False


@pytest.mark.parametrize(
    ("left_out", "problem"),
    [
        ({"uncompared": 3}, "3 orders were not compared with their workflows"),
        ({"judged": 397, "open": 0}, "the audit covers 397 orders, and 400 were accepted"),
    ],
)
def test_books_that_were_audited_in_part_are_not_proven(left_out: dict[str, Any], problem: str) -> None:
    found = decide(evidence(plain(400), audit=AUDIT | left_out))
    assert found.code is ExitCode.INVALID_RUN
    assert found.problems == [problem]


def failed_cases(told: dict[str, Any]) -> dict[str, str]:
    suite = ElementTree.fromstring(junit(told))
    return {case.attrib["name"]: case[0].text or "" for case in suite if len(case)}


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        (None, "not audited: the API did not answer"),
        (AUDIT | {"uncompared": 3}, "no violation found, and 3 orders not compared"),
    ],
)
def test_books_that_nobody_has_audited_fail_their_test_case(audit: Any, words: str) -> None:
    told = decide(evidence(plain(400), audit=audit)).told
    assert failed_cases(told).keys() == {"run is valid", "books are clean"}
    assert failed_cases(told)["books are clean"].startswith(words)
    assert failed_cases(decide(evidence(plain(400))).told) == {}


def test_the_summary_names_broken_promises_and_violations() -> None:
    broken = AUDIT | {"clean": False, "violations": [{"order_id": "a", "finding": "twice", "invariant": 3}]}
    promised = {"broken_promises": ["b: its cancel was accepted, and it completed"]}
    told = decide(evidence(plain(400), audit=broken, report=promised)).told
    _, _, listed = markdown(told).partition("## Broken invariants")
    assert "- 3, order a: twice" in listed
    assert "- order b: its cancel was accepted, and it completed" in listed
    alone = decide(evidence(plain(400), report=promised)).told
    assert "- order b: its cancel" in markdown(alone)


def test_the_csv_has_a_row_for_each_order() -> None:
    nothing = dict.fromkeys(("accept_ms", "accepted", "completion_ms", "end_to_end_ms", "outcome"))
    records = [
        record(0),
        record(1, 2.0, late=True, **nothing | {"accepted": 2.5}, ending=Ending.UNFINISHED.value),
        record(2, 3.0, late=True, **nothing, ending=Ending.NOT_ACCEPTED.value),
        record(3, 4.0, **nothing, ending=Ending.SHED.value),
    ]
    columns = "order_id,run_id,scenario,outcome,requested_at,accepted_at,completion_ms,within_limit"
    finished = f"{columns}\n'-r-0,'-r,mixed,completed,T,T,1000,true\n"
    told = {"run_id": "-r", "scenario": "mixed", "started_at": "2026-03-01T11:59:58.000+00:00"}
    assert orders_csv(finished, records, told).splitlines()[1:] == [
        "'-r-0,'-r,mixed,completed,T,T,1000,true",
        "'-r-1,'-r,mixed,,2026-03-01T12:00:00.000Z,2026-03-01T12:00:00.500Z,,false",
        "'-r-2,'-r,mixed,,2026-03-01T12:00:01.000Z,,,false",
        "'-r-3,'-r,mixed,,2026-03-01T12:00:02.000Z,,,",
    ]


def test_orders_that_were_sent_late_make_the_offered_rate_smaller() -> None:
    on_time = [record(n, n / 10) for n in range(400)]
    assert decide(evidence(on_time)).told["run"]["offered_rate"] == 10
    last_late = [*on_time[:-1], replace(on_time[-1], lag_ms=10_100.0)]
    assert decide(evidence(last_late)).told["run"]["offered_rate"] == 8


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile([15_450.0], 0.99) == 15_450.0
    assert spread([None, None]) is None
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_seconds_of_a_run() -> None:
    records = [record(0, 0.2), record(1, 0.7, end_to_end_ms=2_900.0, late=True), record(2, 1.1)]
    rows = per_second(records)
    assert [row["offered"] for row in rows] == [2, 1, 0, 0]
    assert [row["finished"] for row in rows] == [0, 1, 1, 1]
    assert [row["in_flight"] for row in rows] == [2, 2, 1, 0]
    assert [row["late"] for row in rows] == [1, 0, 0, 0]
    assert rows[2]["completion_p50"] is None


def _disturbance(at: float) -> dict[str, Any]:
    return {"at_seconds": at, "verb": "kill", "target": "order-worker-1", "problem": None}


def _five_a_second(seconds: int, slow: range, slow_ms: float) -> list[OrderRecord]:
    """Orders of 1 s, except those that are due in the seconds of `slow`."""
    return [
        record(
            n,
            n / 5,
            completion_ms=slow_ms if n // 5 in slow else 1_000.0 + n % 7,
            late=slow_ms > 15_000 and n // 5 in slow,
        )
        for n in range(5 * seconds)
    ]


def test_how_long_a_disturbance_is_felt() -> None:
    records = _five_a_second(60, slow=range(20, 26), slow_ms=4_000.0)
    found = disturbance_impact.of([_disturbance(20.0)], records, 15.0)[0]
    assert found["made_late"] == 0
    assert found["former_level_ms"] == pytest.approx(1_003, abs=3)
    # The last slow order is due at 25.8 s; half of ten in a row are quick from the 25th second on.
    assert found["recovery_seconds"] == pytest.approx(5.0, abs=1.0)


def test_a_disturbance_that_nobody_felt() -> None:
    found = disturbance_impact.of([_disturbance(20.0)], _five_a_second(60, range(0), 0.0), 15.0)[0]
    assert found["recovery_seconds"] == 0.0


def _noisy(random: Random, seconds: int = 120, felt: range = range(0)) -> list[OrderRecord]:
    """Five orders a second that take as long as orders under the `assignment` faults do, by chance, and 4 s
    longer in the seconds of `felt`."""
    return [
        record(n, n / 5, completion_ms=2_000 + random.gammavariate(2.5, 750.0) + 4_000 * (n // 5 in felt))
        for n in range(5 * seconds)
    ]


def test_times_that_vary_by_chance_are_no_effect() -> None:
    random = Random(7)
    disturbances = [_disturbance(40.0), _disturbance(70.0), _disturbance(100.0)]
    found = [each for _ in range(60) for each in disturbance_impact.of(disturbances, _noisy(random), 15.0)]
    assert sum(each["recovery_seconds"] != 0 for each in found) <= 5, "of 180"


def test_an_effect_is_seen_through_the_noise() -> None:
    random = Random(8)
    for _ in range(20):
        (found,) = disturbance_impact.of([_disturbance(40.0)], _noisy(random, felt=range(41, 49)), 15.0)
        assert found["recovery_seconds"] == pytest.approx(8.0, abs=3.0)


def test_a_rise_long_after_a_disturbance_is_none_of_it() -> None:
    records = _five_a_second(80, slow=range(60, 66), slow_ms=4_000.0)
    assert disturbance_impact.of([_disturbance(20.0)], records, 15.0)[0]["recovery_seconds"] == 0.0


def test_orders_that_were_turned_away_are_laid_to_what_was_done_before() -> None:
    nothing = dict.fromkeys(("accept_ms", "accepted", "completion_ms", "outcome"))
    shed = [
        record(n, 25.0, late=True, end_to_end_ms=20.0, ending=Ending.SHED.value, **nothing)
        for n in range(500, 507)
    ]
    records = _five_a_second(60, range(0), 0.0) + shed
    first, second = disturbance_impact.of([_disturbance(20.0), _disturbance(30.0)], records, 15.0)
    assert (first["made_late"], second["made_late"]) == (7, 0)


def test_a_level_that_does_not_come_back() -> None:
    found = disturbance_impact.of([_disturbance(20.0)], _five_a_second(60, range(20, 60), 4_000.0), 15.0)[0]
    assert found["recovery_seconds"] is None


def test_orders_that_never_finish_do_not_look_like_quick_ones() -> None:
    before = _five_a_second(20, range(0), 0.0)
    nothing = dict.fromkeys(("completion_ms", "end_to_end_ms", "outcome"))
    stuck = [record(n, n / 5, late=True, ending=Ending.UNFINISHED.value, **nothing) for n in range(100, 200)]
    found = disturbance_impact.of([_disturbance(20.0)], before + stuck, 15.0)[0]
    assert (found["made_late"], found["too_few_after"]) == (100, False)
    assert found["recovery_seconds"] is None
    assert "was not back at its former level" in _words(found)


def test_too_few_orders_after_it_to_know() -> None:
    records = _five_a_second(22, range(0), 0.0)
    found = disturbance_impact.of([_disturbance(21.5)], records, 15.0)[0]
    assert found["former_level_ms"] is not None
    assert found["recovery_seconds"] is None
    assert _words(found) == (
        "made 0 orders late; too few orders after it to know whether completion time rose"
    )


def _words(disturbance: dict[str, Any]) -> str:
    told = decide(evidence(plain(400))).told | {"disturbances": [disturbance]}
    return facts(told)[f"{disturbance['at_seconds']:.1f}s kill order-worker-1"]


def test_each_late_order_is_laid_to_one_disturbance() -> None:
    records = _five_a_second(60, slow=range(20, 22), slow_ms=16_000.0)
    first, second = disturbance_impact.of([_disturbance(20.0), _disturbance(50.0)], records, 15.0)
    assert (first["made_late"], second["made_late"]) == (10, 0)


def test_too_few_orders_before_it_to_know() -> None:
    found = disturbance_impact.of([_disturbance(1.0)], _five_a_second(10, range(0), 0.0), 15.0)[0]
    assert found["former_level_ms"] is None
    assert found["recovery_seconds"] is None


def _sample(seed: int, mean: float, orders: int = 2_000) -> list[float]:
    random = Random(seed)
    return [random.gauss(mean, 300) for _ in range(orders)]


def test_better_worse_and_no_difference_shown() -> None:
    base = _sample(1, 3_000)
    assert compare(_sample(2, 3_000), (0, 2_000), base, (0, 2_000))["verdict"] == "no difference shown"
    assert compare(_sample(2, 3_200), (0, 2_000), base, (0, 2_000))["verdict"] == "worse"
    assert compare(_sample(2, 2_800), (0, 2_000), base, (0, 2_000))["verdict"] == "better"
    late = compare(_sample(2, 3_000), (60, 2_000), base, (0, 2_000))
    assert late["late_share"]["verdict"] == "worse"


def stored(**known: Any) -> StoredRun:
    nothing = dict.fromkeys(StoredRun.__dataclass_fields__)
    options = RunOptions.parse({"run_id": "r", "rate": 10, "duration": "40s"} | known.pop("given", {}))
    told = options.to_json()
    usual = {"scenario": told["scenario"], "stages": told["stages"], "options": told,
             "fault_profile": "assignment", "fault_seed": 1, "commit_hash": "abc"}  # fmt: skip
    return StoredRun(**(nothing | usual | known))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({}, []),
        ({"given": {"scenario": "start-only"}}, ["scenario mixed, then start-only"]),
        ({"given": {"rate": 20}}, ["load constant 40s@10, then constant 40s@20"]),
        ({"given": {"arrivals": "poisson"}}, ["load constant 40s@10, then poisson 40s@10"]),
        ({"given": {"chaos": "5s kill api"}}, ["chaos none, then 5s kill api"]),
        ({"fault_profile": "none"}, ["faults assignment (seed 1), then none (seed 1)"]),
        ({"commit_hash": None}, ["commit abc, then unknown"]),
    ],
)
def test_a_comparison_names_what_was_not_the_same(other: dict[str, Any], words: list[str]) -> None:
    told = differences(stored(), stored(**other))
    assert told == words
    found = {"with": "x", "differences": told} | compare([1.0], (0, 1), [2.0], (0, 1))
    assert ("not the same test" in comparison_text(found)) is bool(words)


def test_intervals_hold_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "RESAMPLES", 1_000)
    held = wrong = 0
    for seed in range(100):
        found = compare(_sample(2 * seed, 3_000, 400), (0, 400), _sample(2 * seed + 1, 3_000, 400), (0, 400))
        p50 = found["completion_ms"]["p50"]
        held += p50["low"] <= 0 <= p50["high"]
        wrong += found["verdict"] != "no difference shown"
    assert held >= 88, "95 are to be expected; fewer than 88 would happen once in 200"
    assert wrong <= 6, "of all differences together; with intervals of 95 % for each it would be about nine"


def test_large_runs_are_compared_quickly() -> None:
    one, other = _sample(1, 3_000, 50_000), _sample(2, 3_010, 50_000)
    began = time.process_time()
    compare(one, (0, 50_000), other, (0, 50_000))
    assert time.process_time() - began < 2


def test_no_late_orders_are_no_certainty() -> None:
    low, high = late_share_interval((0, 100), (0, 100))
    assert low < 0 < high
    # R. G. Newcombe 1998, table II: 56/70 against 48/80, method 10.
    assert late_share_interval((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_wording_tells_everything() -> None:
    told = decide(evidence(plain(400, late=1))).told | {"report_dir": "x"}
    told["disturbances"] = disturbance_impact.of([replace_problem(_disturbance(3.0))], plain(400), 15.0)
    words = facts(told)
    assert words["limit"].startswith("not proven: 1 late of 400 (15 s)")
    assert words["3.0s kill order-worker-1"] == "not carried out: it does not run just now"


def replace_problem(disturbance: dict[str, Any]) -> dict[str, Any]:
    return disturbance | {"problem": "it does not run just now"}


def test_records_survive_a_message() -> None:
    known = replace(record(3, 1.5), reason="deadline", late=True)
    assert OrderRecord.from_wire(known.to_wire()) == known
