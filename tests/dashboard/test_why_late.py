"""Why orders were late: the groups of a run, the windows of disturbances, and the waterfall."""

from datetime import UTC, datetime, timedelta

import psycopg
from hypothesis import given
from hypothesis import strategies as st

from db.read_models import time_groups
from db.read_models.latency import Disturbance
from db.read_models.time_groups import PARTS, SLOW_SHARE, TimeGroup, Window
from db.read_only_database import ReadOnlyDatabase
from loadtest.charts.palette import LIGHT
from loadtest.charts.run.why_late import (
    MAX_DISTURBANCES,
    OTHERS,
    Contribution,
    WhyLate,
    disturbance_windows,
    explanation,
    waterfall,
    why_late,
)
from tests.dashboard.conftest import query, reader_of, some_run

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def group(orders: int = 1, disturbed: dict[int, int] | None = None, **parts_ms: int) -> TimeGroup:
    all_parts = dict.fromkeys(PARTS, 0) | parts_ms
    return TimeGroup(orders, sum(all_parts.values()), all_parts, disturbed or {})


@st.composite
def groups(draw: st.DrawFn) -> TimeGroup:
    parts = draw(st.fixed_dictionaries({part: st.integers(0, 10**7) for part in PARTS}))
    disturbed = draw(st.dictionaries(st.integers(0, 9), st.integers(0, 10**7)))
    return group(draw(st.integers(1, 5_000)), disturbed, **parts)


@given(groups(), groups())
def test_the_contributions_sum_exactly_to_the_difference_of_the_means(late: TimeGroup, on_time: TimeGroup):
    names = {number: "kill api at +5 s" for number in range(10)}
    found = why_late(late, on_time, names)
    assert found.on_time_ms + sum(each.ms for each in found.contributions) == found.group_ms
    assert found.group_ms == late.completion_ms // late.orders
    assert found.on_time_ms == on_time.completion_ms // on_time.orders
    rounded = {each.name: each.ms for each in found.contributions}
    for part in PARTS[:-1]:
        exact = late.parts_ms[part] / late.orders - on_time.parts_ms[part] / on_time.orders
        assert abs(rounded.get(part, 0) - exact) <= 1.001


def test_waiting_in_the_window_of_a_disturbance_counts_as_the_disturbance():
    late = group(2, {0: 8_000, 1: 1_000}, review=4_000, waiting=20_000, dispatch=6_000)
    on_time = group(4, {0: 2_000}, review=8_000, waiting=4_000, dispatch=2_000)
    found = why_late(late, on_time, {0: "kill order-worker-1 at +20 s", 1: "stop api at +40 s"})
    assert found == WhyLate(
        3_500,
        [
            Contribution("dispatch", 2_500),
            Contribution("waiting", 5_000),
            Contribution("kill order-worker-1 at +20 s", 3_500),
            Contribution("stop api at +40 s", 500),
        ],
        15_000,
        2,
    )
    assert explanation(found, "late") == (
        "The 2 late orders took 15.000 s on average, 11.500 s more than on-time orders (3.500 s). Largest "
        "contributions: waiting +5.000 s, kill order-worker-1 at +20 s +3.500 s, dispatch +2.500 s."
    )


def test_many_disturbances_are_summed_except_the_largest():
    late = group(1, {n: 1_000 + n for n in range(10)}, waiting=20_000)
    found = why_late(late, group(1), {n: f"kill api at +{n} s" for n in range(10)})
    names = [each.name for each in found.contributions]
    assert names == ["waiting", *(f"kill api at +{n} s" for n in range(4, 4 + MAX_DISTURBANCES)), OTHERS]
    assert found.contributions[-1].ms == sum(1_000 + n for n in range(4))


def test_a_time_in_two_windows_belongs_to_the_later_disturbance():
    disturbances = [
        Disturbance("run", at(10), "pause", "api"),
        Disturbance("run", at(20), "kill", "order-worker-1"),
        Disturbance("run", at(50), "resume", "api"),
        Disturbance("run", at(90), "stop", "temporal"),
    ]
    windows, names = disturbance_windows(disturbances, START, at(100), limit_seconds=15)
    assert windows == [
        Window(0, at(10), at(20)),
        Window(1, at(20), at(35)),
        Window(0, at(35), at(50)),
        Window(2, at(90), at(100)),
    ]
    assert names == {0: "pause api at +10 s", 1: "kill order-worker-1 at +20 s", 2: "stop temporal at +90 s"}
    assert disturbance_windows([], START, at(100), 15) == ([], {})


def test_the_bars_of_the_waterfall_are_the_contributions():
    found = WhyLate(3_500, [Contribution("dispatch", 12_000), Contribution("review", -500)], 15_000, 2)
    (bars,) = waterfall(found, "late", LIGHT, 15.0).data
    assert list(bars.measure) == ["absolute", "relative", "relative", "total"]
    assert list(bars.x) == [3.5, 12.0, -0.5, 15.0]
    assert list(bars.customdata) == ["on-time orders", "dispatch", "review", "late orders"]
    assert list(bars.text) == ["3.500 s", "+12.000 s", "-0.500 s", "15.000 s"]


def test_the_groups_of_a_run_have_the_total_times_of_their_orders(seeded: ReadOnlyDatabase, seeded_url: str):
    run_id = query(seeded_url, "select run_id from runs order by late_orders desc limit 1")[0]["run_id"]
    found = time_groups.time_groups(seeded, run_id)
    rows = query(seeded_url, "select * from orders where run_id = %(run)s", {"run": run_id})
    on_time = sorted(row["completion_ms"] for row in rows if row["within_limit"])
    above = on_time[-(-len(on_time) * round(100 * SLOW_SHARE) // 100) - 1]
    expected = {
        "late": [row for row in rows if not row["within_limit"]],
        "slow": [row for row in rows if row["within_limit"] and row["completion_ms"] > above],
        "on_time": [row for row in rows if row["within_limit"] and row["completion_ms"] <= above],
    }
    assert all(expected.values())
    for name, orders in expected.items():
        actual = getattr(found, name)
        assert actual.orders == len(orders)
        assert actual.parts_ms == {part: sum(row[f"{part}_ms"] for row in orders) for part in PARTS}
        assert actual.completion_ms == sum(actual.parts_ms.values())
        assert actual.disturbed_ms == {}


def test_waiting_within_a_window_is_attributed_to_it(seeded: ReadOnlyDatabase, seeded_url: str):
    run_id = some_run(seeded)
    (span,) = query(
        seeded_url,
        "select min(accepted_at) as since, max(finished_at) as until, sum(waiting_ms) as waiting_ms,"
        " count(*) as orders from orders where run_id = %(run)s",
        {"run": run_id},
    )
    middle = span["since"] + (span["until"] - span["since"]) / 2
    whole = time_groups.time_groups(seeded, run_id, [Window(7, span["since"], span["until"])])
    halves = time_groups.time_groups(
        seeded, run_id, [Window(0, span["since"], middle), Window(1, middle, span["until"])]
    )

    def disturbed(found: time_groups.TimeGroups) -> int:
        members = [each for each in (found.on_time, found.slow, found.late) if each is not None]
        return sum(sum(each.disturbed_ms.values()) for each in members)

    # Each part of an order is rounded down to whole milliseconds, and waiting is the remainder.
    assert 0 <= span["waiting_ms"] - disturbed(whole) <= 10 * span["orders"]
    assert abs(disturbed(whole) - disturbed(halves)) <= 6
    assert set(whole.on_time.disturbed_ms) == {7}
    outside = time_groups.time_groups(
        seeded, run_id, [Window(0, span["until"], span["until"] + timedelta(hours=1))]
    )
    assert disturbed(outside) == 0


def test_an_order_without_events_waited_for_no_disturbance(seeded_url: str):
    (run,) = query(seeded_url, "select run_id, started_at, ended_at from runs limit 1")
    window = [Window(0, run["started_at"], run["ended_at"])]
    with psycopg.connect(seeded_url) as connection:
        connection.execute("update event_retention set events_since = %s", (run["ended_at"],))
        connection.commit()
        reader = reader_of(seeded_url)
        try:
            found = time_groups.time_groups(reader, run["run_id"], window)
        finally:
            reader.close()
            connection.execute("update event_retention set events_since = '-infinity'")
    assert found.on_time.disturbed_ms == {}


def test_an_unknown_run_has_no_groups(seeded: ReadOnlyDatabase):
    assert time_groups.time_groups(seeded, "unknown") == time_groups.TimeGroups()
