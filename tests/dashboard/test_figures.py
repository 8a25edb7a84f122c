"""Figures over known rows: every value is where it should be."""

import math
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest

from dashboard.charts import distribution, in_flight, over_time, palette, throughput, time_breakdown, timeline
from dashboard.charts.axes import bands, log_seconds
from dashboard.charts.palette import DARK, LIGHT, palette_of
from dashboard.data.api_metrics import ApiSpeed
from dashboard.data.worker_usage import WorkerUse
from dashboard.view_models import reviews, slo_status
from dashboard.view_models.disturbance_spans import DisturbedTime, disturbed_times
from db.domain import State
from db.read_models.latency import Bucket, Cell, Disturbance, FaultSpan, Plan, Selection, Slice
from db.read_models.live_orders import InFlight, RecentOutcomes
from db.read_models.order_search import OrderDetails

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LIMIT_MS = 15_000


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def racing(order_id: str, elapsed_ms: int, **more: object) -> dict:
    row = {"order_id": order_id, "state": "charged", "current_step": "prepare", "abort_reason": None}
    return row | {"attempt": 1, "elapsed_ms": elapsed_ms, "limit_ms": LIMIT_MS} | more


# --- The race -------------------------------------------------------------------------------------


def test_race_gives_each_order_a_lane_with_its_seconds():
    figure = in_flight.race([racing("a", 12_500), racing("b", 4_000, attempt=3)], LIGHT, 15.0)
    (bars,) = figure.data
    assert list(bars.x) == [12.5, 4.0]
    assert list(bars.y) == [0, 1]
    assert list(bars.text) == ["prepare", "prepare, attempt 3"]
    assert list(figure.layout.yaxis.ticktext) == ["a", "b"]


def test_race_marks_danger_by_colour_and_by_pattern():
    figure = in_flight.race([racing("a", 12_500), racing("b", 9_000), racing("c", 100)], LIGHT, 15.0)
    (bars,) = figure.data
    assert list(bars.marker.color) == [LIGHT.bad, LIGHT.warn, LIGHT.calm]
    assert list(bars.marker.pattern.shape) == ["/", "", ""]


def test_race_says_when_an_order_is_being_undone():
    figure = in_flight.race([racing("a", 100, abort_reason="deadline", current_step="refund")], LIGHT, 15.0)
    assert list(figure.data[0].text) == ["undoing, refund"]


def test_race_is_as_high_without_orders_as_with_more_than_it_shows():
    empty = in_flight.race([], LIGHT, 15.0)
    full = in_flight.race([racing(str(n), n) for n in range(40)], LIGHT, 15.0)
    assert empty.layout.height == full.layout.height
    assert list(empty.layout.yaxis.range) == list(full.layout.yaxis.range)
    assert len(full.data[0].y) == in_flight.LANES


def test_race_keeps_an_order_beyond_the_limit_in_sight():
    figure = in_flight.race([racing("a", 60_000)], LIGHT, 15.0)
    assert figure.layout.xaxis.range[1] > 60
    assert [shape.x0 for shape in figure.layout.shapes] == [15.0]


def test_long_ids_keep_their_end():
    assert in_flight.short("x" * 30 + "-17").endswith("-17")
    assert len(in_flight.short("x" * 40)) == 22
    assert in_flight.short("short") == "short"


# --- Pace and lights --------------------------------------------------------------------------------


def test_pace_draws_both_counts_of_each_second():
    rows = [{"at": after(n), "started": n, "finished": 2 * n} for n in range(3)]
    figure = throughput.pace(rows, LIGHT)
    assert [list(line.y) for line in figure.data] == [[0, 1, 2], [0, 2, 4]]
    assert throughput.per_second(rows, "started", 2) == 1.5
    assert throughput.per_second([], "started") == 0.0


def lately(**more: object) -> RecentOutcomes:
    known = {"finished": 0, "late": 0, "outcomes": {}, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    return RecentOutcomes(**(known | {"max_ms": None} | more))


@pytest.mark.parametrize(
    ("late", "overdue", "kept", "figure"),
    [
        (0, 0, True, "0 late of 10, longest 14.999 s"),
        (1, 0, False, "1 late of 10, longest 14.999 s"),
        (0, 2, False, "2 late of 12, longest 14.999 s"),
    ],
)
def test_completion_counts_open_orders_past_the_limit_as_late(late, overdue, kept, figure):
    light = slo_status.completion_light(
        lately(finished=10, late=late, max_ms=14_999), InFlight(5, overdue, 0), 15.0
    )
    assert (light.is_kept, light.figure) == (kept, figure)


def test_lights_without_anything_to_judge_by_are_neither_on_nor_off():
    assert slo_status.completion_light(lately(), InFlight(0, 0, 0), 15.0).is_kept is None
    assert slo_status.api_light(ApiSpeed(0, 0, None)).is_kept is None
    assert slo_status.query_light([], False).is_kept is None
    assert slo_status.cpu_light([]).is_kept is None
    assert slo_status.memory_light([]).is_kept is None


def test_api_light_is_off_when_the_api_is_away_or_slow():
    assert slo_status.api_light(None).is_kept is False
    assert slo_status.api_light(ApiSpeed(100, 5, 2_500.0)).is_kept is False
    assert slo_status.api_light(ApiSpeed(100, 0, 1_000.0)).is_kept is True
    assert slo_status.api_light(ApiSpeed(100, 100, math.inf)).figure == "99 % over 60 s, 100 of 100 over 1 s"


def test_query_light_judges_the_95th_percentile():
    assert slo_status.query_light([1.0] * 95 + [500.0] * 5, False).is_kept is True
    assert slo_status.query_light([1.0] * 94 + [500.0] * 6, False).is_kept is False


def test_query_light_is_off_while_queries_fail():
    light = slo_status.query_light([1.0] * 400 + [2_003.0], True)
    assert (light.is_kept, light.figure) == (False, "the last one failed after 2,003 ms")


def test_worker_lights_name_the_busiest_and_the_largest():
    workers = [WorkerUse("one", 0.2, 3 * 1024**3), WorkerUse("two", 0.81, 1024**2)]
    assert slo_status.cpu_light(workers).figure == "81 % of a core, two"
    assert slo_status.cpu_light(workers).is_kept is False
    assert slo_status.memory_light(workers).figure == "3,072 MB, one"
    assert slo_status.memory_light(workers).is_kept is False


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.51, 3), (1.0, 4), (0.01, 1)])
def test_percentile_is_the_smallest_value_that_enough_do_not_exceed(share, value):
    assert slo_status.percentile([4, 2, 1, 3], share) == value


@pytest.mark.parametrize(
    ("ms", "text"), [(15_450, "15.450 s"), (0, "0.000 s"), (None, "–"), (3_600_001, "3,600.001 s")]
)
def test_seconds_keep_every_millisecond(ms, text):
    assert slo_status.seconds(ms) == text


# --- Reviews ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("read_at", "left"), [(0.0, 8.95), (5.0, 3.95), (12.0, 0.0)])
def test_the_time_for_a_review_ends_when_the_review_expires(read_at, left):
    order = {"accepted_at": NOON, "deadline_at": after(15), "read_at": after(read_at)}
    assert reviews.time_to_decide(order) == (pytest.approx(left), pytest.approx(8.95))


def test_an_order_to_review_is_told_in_one_line():
    order = {
        "items": [{"sku": f"S{n}", "quantity": n} for n in (1, 2, 3, 4, 5)],
        "address": {"city": "Springfield"},
    }
    assert reviews.contents(order) == "1 × S1, 2 × S2, 3 × S3 and 2 more, to Springfield"


# --- The timeline of one order ----------------------------------------------------------------------


def attempt(step: str, number: int, outcome: str, start: float, ms: float, state: str = "received") -> dict:
    return {
        "at": after(start + ms / 1000), "kind": "attempt", "state": state, "step": step, "attempt": number,
        "outcome": outcome, "started_at": after(start), "duration_ms": ms, "worker": "w1",
        "detail": None if outcome == "ok" else {"error": "no <b>luck</b>"},
    }  # fmt: skip


def told(kind: str, at: float, state: str, **detail: object) -> dict:
    return {
        "at": after(at), "kind": kind, "state": state, "step": None, "attempt": None, "outcome": None,
        "started_at": None, "duration_ms": None, "worker": None, "detail": detail or None,
    }  # fmt: skip


def order_details(*events: dict, under_way: list[dict] | None = None, **order: object) -> OrderDetails:
    known = {
        "order_id": "o", "accepted_at": NOON, "deadline_at": after(15), "finished_at": after(4),
        "read_at": after(9), "aborted_at": None,
    }  # fmt: skip
    return OrderDetails(known | order, list(events), under_way or [])


WHOLE = (
    told("accepted", 0.01, "received"),
    attempt("receive", 1, "error", 0.1, 100),
    attempt("receive", 2, "ok", 0.3, 200),
    told("state", 0.6, "in_review"),
    told("state", 2.6, "approved"),
    attempt("charge", 1, "timeout", 2.7, 300, "approved"),
    told("signal", 2.9, "approved", signal="update_address", accepted=True),
    attempt("charge", 2, "ok", 3.0, 500, "charged"),
    told("signal", 3.6, "charged", signal="cancel_order", accepted=False, reason="<i>x</i>"),
)


def test_timeline_has_a_bar_for_each_attempt_and_for_the_review():
    bars = [bar for bar in timeline.bars(order_details(*WHOLE)) if bar.kind != timeline.WAITING]
    seen = [(bar.lane, bar.kind, round(bar.start_seconds, 6), round(bar.end_seconds, 6)) for bar in bars]
    assert seen == [
        ("receive", "error", 0.1, 0.2),
        ("receive", "ok", 0.3, 0.5),
        ("charge", "timeout", 2.7, 3.0),
        ("charge", "ok", 3.0, 3.5),
        ("review", "review", 0.6, 2.6),
    ]


def test_timeline_shows_every_moment_in_which_nobody_worked():
    waits = [bar for bar in timeline.bars(order_details(*WHOLE)) if bar.kind == timeline.WAITING]
    assert [(round(bar.start_seconds, 6), round(bar.end_seconds, 6)) for bar in waits] == [
        (0.0, 0.1),
        (0.2, 0.3),
        (0.5, 0.6),
        (2.6, 2.7),
        (3.5, 4.0),
    ]


def test_timeline_bars_and_waits_cover_the_order_without_a_gap():
    bars = timeline.bars(order_details(*WHOLE))
    assert sum(bar.end_seconds - bar.start_seconds for bar in bars) == pytest.approx(4.0)


def test_timeline_lets_an_attempt_under_way_reach_until_now():
    running = [{"step": "charge", "attempt": 2, "started_at": after(5), "worker": "w2"}]
    (bar,) = [
        bar
        for bar in timeline.bars(order_details(under_way=running, finished_at=None))
        if bar.kind == timeline.UNDER_WAY
    ]
    assert (bar.start_seconds, bar.end_seconds, bar.attempt) == (5.0, 9.0, 2)


def test_a_review_that_was_never_decided_ends_with_the_abort():
    file = order_details(told("state", 1.0, "in_review"), aborted_at=after(3.0))
    (bar,) = [bar for bar in timeline.bars(file) if bar.kind == timeline.REVIEW]
    assert (bar.start_seconds, bar.end_seconds) == (1.0, 3.0)


def test_timeline_marks_requests_and_tells_the_late_ones_apart():
    marks = timeline.marks(order_details(*WHOLE))
    assert [(mark.at_seconds, mark.name, mark.is_accepted) for mark in marks] == [
        (2.9, "update address", True),
        (3.6, "cancel order", False),
    ]
    figure = timeline.timeline(order_details(*WHOLE), LIGHT)
    requests = figure.data[-1]
    assert list(requests.text) == ["update address", "cancel order, too late"]
    assert list(requests.marker.symbol) == ["diamond", "x"]


def test_timeline_draws_the_limit_and_tells_attempts_apart_without_colour():
    figure = timeline.timeline(order_details(*WHOLE), DARK)
    assert [shape.x0 for shape in figure.layout.shapes] == [15.0]
    patterns = {trace.name: trace.marker.pattern.shape for trace in figure.data if trace.type == "bar"}
    assert len({patterns["ok"], patterns["error"], patterns["timeout"]}) == 3


def test_timeline_never_reads_a_users_text_as_markup():
    figure = timeline.timeline(order_details(*WHOLE), LIGHT)
    hovers = [text for trace in figure.data for text in trace.customdata]
    assert any("&lt;b&gt;luck" in text for text in hovers)
    assert any("&lt;i&gt;x" in text for text in hovers)
    assert not any("<b>" in text or "<i>" in text for text in hovers)


# --- Distributions and time ---------------------------------------------------------------------------

C, F = State.COMPLETED, State.FAILED


def test_histogram_stacks_outcomes_between_the_edges_of_their_bucket():
    buckets = [Bucket(4_089, {C: 3}), Bucket(15_000, {C: 2, F: 1}), Bucket(15_664, {F: 4})]
    figure = distribution.histogram(buckets, LIGHT, LIMIT_MS, 15_600)
    by_name = {trace.name: trace for trace in figure.data}
    assert list(by_name["completed"].y) == [3, 2]
    assert list(by_name["failed"].y) == [1, 4]
    middle, width = by_name["failed"].x[0], by_name["failed"].width[0]
    assert 10 ** (middle - width / 2) == pytest.approx(14.364)
    assert 10 ** (middle + width / 2) == pytest.approx(15.0)
    assert figure.layout.shapes[0].x0 == pytest.approx(math.log10(15))


def test_no_bucket_lies_on_both_sides_of_the_limit():
    buckets = [Bucket(15_000, {C: 1}), Bucket(15_664, {C: 1})]
    (bars,) = distribution.histogram(buckets, LIGHT, LIMIT_MS, 15_600).data
    limit = log_seconds(LIMIT_MS)
    for middle, width in zip(bars.x, bars.width, strict=True):
        assert middle + width / 2 <= limit + 1e-9 or middle - width / 2 >= limit - 1e-9


def test_ecdf_shows_shares_in_percent_and_names_two_curves():
    figure = distribution.ecdf({"a": [(1_000, 0.5), (2_000, 1.0)], "b": [(3_000, 1.0)]}, LIGHT, LIMIT_MS)
    assert [list(trace.y) for trace in figure.data] == [[50.0, 100.0], [100.0]]
    assert list(figure.data[0].x) == [0.0, pytest.approx(math.log10(2))]
    assert figure.data[0].line.dash != figure.data[1].line.dash
    assert figure.layout.showlegend


PLAN = Plan(Selection(), NOON, after(600), is_exact=True)


def test_percentiles_leave_a_gap_where_no_order_was():
    times = {0.5: 1_000, 0.95: 2_000, 0.99: 3_000, 1.0: 4_000}
    slices = [Slice(NOON, 3, times), Slice(after(5), 3, times), Slice(after(100), 4, times)]
    figure = over_time.percentiles(slices, PLAN, LIGHT, LIMIT_MS, [], [])
    assert PLAN.slice_seconds == 5
    assert list(figure.data[0].y) == [1.0, 1.0, None, 1.0]
    assert list(figure.data[3].y) == [4.0, 4.0, None, 4.0]


def test_heatmap_puts_each_count_into_its_cell():
    cells = [Cell(NOON, 4_089, 2), Cell(after(5), 4_089, 1), Cell(after(5), 4_460, 7)]
    (heat,) = over_time.heatmap(cells, PLAN, LIGHT, LIMIT_MS, [], []).data
    assert [list(row) for row in heat.z] == [[2, 1], [None, None], [None, 7]]


def test_heatmap_shows_nothing_where_there_were_no_orders():
    cells = [Cell(NOON, 4_089, 2), Cell(after(15), 4_089, 1)]
    (heat,) = over_time.heatmap(cells, PLAN, LIGHT, LIMIT_MS, [], []).data
    assert [list(row) for row in heat.z] == [[2, None, None, 1]]
    # A cell is as wide as its slice.
    assert list(heat.x) == [NOON, after(5), after(10), after(15), after(20)]


def test_a_profile_put_in_force_again_is_one_band():
    figure = over_time.percentiles([], PLAN, LIGHT, LIMIT_MS, [], [])
    faults = [
        FaultSpan("lossy", 1, NOON, after(60)),
        FaultSpan("lossy", 2, after(60), after(120)),
        FaultSpan("none", 2, after(120), after(180)),
        FaultSpan("lossy", 2, after(180), None),
    ]
    bands(figure, LIGHT, faults, [], NOON, after(600), 15)
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"] == [
        (NOON, after(120)),
        (after(180), after(600)),
    ]


def test_faults_and_disturbances_are_bands():
    figure = over_time.percentiles([], PLAN, LIGHT, LIMIT_MS, [], [])
    faults = [
        FaultSpan("none", 0, after(-100), after(60)),
        FaultSpan("assignment", 1, after(60), after(120)),
        FaultSpan("outage", 1, after(120), None),
        FaultSpan("slow", 1, after(-90), after(-80)),
    ]
    told = [
        Disturbance("r", after(30), "kill", "<b>w</b>"),
        Disturbance("r", after(590), "pause", "api"),
        Disturbance("r", after(595), "pause", "postgres"),
        Disturbance("r", after(598), "resume", "api"),
    ]
    bands(figure, LIGHT, faults, told, NOON, after(600), 15)
    rectangles = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert [(shape.x0, shape.x1) for shape in rectangles] == [
        (after(60), after(120)),
        (after(120), after(600)),
        (after(30), after(45)),
        (after(590), after(598)),
        (after(595), after(600)),
    ]
    begun = [shape.x0 for shape in figure.layout.shapes if shape.type == "line" and shape.xref == "x"]
    assert begun == [after(30), after(590), after(595)]
    assert [note.text for note in figure.layout.annotations][-5:] == [
        "assignment",
        "outage",
        "kill &lt;b&gt;w&lt;/b&gt;, and the limit after it",
        "pause api",
        "pause postgres",
    ]


def test_what_was_stopped_is_away_until_it_was_brought_back():
    told = [
        Disturbance(None, after(0), "stop", "api"),
        Disturbance(None, after(5), "start", "postgres"),
        Disturbance(None, after(9), "start", "api"),
        Disturbance(None, after(20), "stop", "api"),
    ]
    assert disturbed_times(told, 15) == [
        DisturbedTime(after(0), after(9), "stop api"),
        DisturbedTime(after(5), after(5), "start postgres"),
        DisturbedTime(after(20), None, "stop api"),
    ]


def test_split_stacks_parts_that_sum_to_the_whole():
    row = {f"{part}_ms": n for n, part in enumerate(time_breakdown.PARTS, start=1)}
    row |= {"order_id": "a", "outcome": "completed", "completion_ms": sum(row.values())}
    assert sum(time_breakdown.parts_of(row).values()) == row["completion_ms"] == 36
    figure = time_breakdown.split([row], LIGHT, LIMIT_MS)
    assert sum(trace.x[0] for trace in figure.data) == pytest.approx(0.036)


# --- Colours --------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("colours", "background"), [(LIGHT, "#ffffff"), (DARK, "#10161d")])
def test_every_mark_stands_out_from_its_page(colours, background):
    for colour in (colours.calm, colours.good, colours.warn, colours.bad, colours.accent):
        assert contrast(colour, background) >= 3.0, colour
    assert contrast(colours.text, background) >= 7.0


# Linear RGB as deuteranopes, protanopes and tritanopes see it: G. M. Machado et al., IEEE TVCG 15 (2009)
# 1291-1298.
BLINDNESS = {
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def seen(colour: str, blindness) -> list[float]:
    rgb = [(int(colour[n : n + 2], 16) / 255) ** 2.2 for n in (1, 3, 5)]
    return [sum(k * c for k, c in zip(row, rgb, strict=True)) for row in blindness]


@pytest.mark.parametrize("blindness", BLINDNESS.values(), ids=list(BLINDNESS))
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_outcomes_are_told_apart_by_the_colour_blind(colours, blindness):
    for one, other in combinations((colours.good, colours.warn, colours.bad), 2):
        assert math.dist(seen(one, blindness), seen(other, blindness)) > 0.08, (one, other)


@pytest.mark.parametrize("blindness", BLINDNESS.values(), ids=list(BLINDNESS))
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_parts_are_told_apart_by_the_colour_blind(colours, blindness):
    row = dict.fromkeys((f"{part}_ms" for part in time_breakdown.PARTS), 1)
    row |= {"order_id": "a", "outcome": "completed", "completion_ms": len(time_breakdown.PARTS)}
    traces = time_breakdown.split([row], colours, LIMIT_MS).data
    assert [trace.name for trace in traces] == list(time_breakdown.PARTS)
    for one, other in combinations(traces, 2):
        if one.marker.pattern.shape == other.marker.pattern.shape:
            places = [seen(trace.marker.color, blindness) for trace in (one, other)]
            assert math.dist(*places) > 0.15, (one.name, other.name)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_on_a_bar_is_readable(colours):
    for colour in (colours.calm, colours.warn, colours.bad):
        assert contrast(colours.on_mark, colour) >= 3.0, colour


def test_figures_that_are_drawn_at_every_tick_have_no_zoom_to_lose():
    for figure in (
        in_flight.race([], LIGHT, 15.0),
        throughput.pace([], LIGHT),
        timeline.timeline(order_details(finished_at=None), LIGHT),
    ):
        assert figure.layout.dragmode is False
        assert figure.layout.xaxis.fixedrange
        assert figure.layout.yaxis.fixedrange
    assert timeline.timeline(order_details(), LIGHT).layout.xaxis.fixedrange is None


def test_the_palette_follows_the_theme():
    assert palette_of("dark") is DARK
    assert palette_of("light") is palette_of(None) is LIGHT
    assert palette.LIGHT.of_outcome(State.RECEIVED) == LIGHT.calm
