"""Chart builders: every value is drawn at its place, and no information depends on color alone."""

import math

import pytest

from db.domain import State
from db.read_models.latency import Bucket, Cell, Disturbance, FaultSpan, Plan, Selection, Slice
from db.read_models.latency_buckets import EDGES_MS
from loadtest.charts import distribution, over_time, throughput, time_breakdown
from loadtest.charts.axes import TimeRange, log_seconds
from loadtest.charts.in_flight import ROWS, in_flight_chart, short_id
from loadtest.charts.order.bars import marks
from loadtest.charts.order.timeline import timeline
from loadtest.charts.palette import DARK, LIGHT
from tests.dashboard.order_examples import NOON, ORDER_EVENTS, after, order_details

LIMIT_MS = 15_000


def in_flight_row(order_id: str, elapsed_ms: int, **more: object) -> dict:
    row = {"order_id": order_id, "state": "charged", "current_step": "prepare", "abort_reason": None}
    return row | {"attempt": 1, "elapsed_ms": elapsed_ms, "limit_ms": LIMIT_MS} | more


def drawn(figure) -> dict[str, tuple]:
    """The elapsed seconds, row, label, color and pattern of each order."""
    return {
        order_id: (bars.x[n], bars.y[n], bars.text[n], bars.marker.color, bars.marker.pattern.shape)
        for bars in figure.data
        if bars.type == "bar"
        for n, order_id in enumerate(bars.customdata or ())
    }


def test_each_order_in_flight_has_a_row_with_its_elapsed_seconds_and_probability():
    rows = [in_flight_row("a", 12_500), in_flight_row("b", 4_000, attempt=3), in_flight_row("c", 100)]
    figure = in_flight_chart(rows, [0.75, 0.004, None], LIGHT, 15.0)
    assert {name: values[:3] for name, values in drawn(figure).items()} == {
        "a": (12.5, 0, "prepare · 75 %"),
        "b": (4.0, 1, "prepare, attempt 3 · <1 %"),
        "c": (0.1, 2, "prepare"),
    }
    assert list(figure.layout.yaxis.ticktext) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("probability", "color", "pattern"),
    [
        (0.09, LIGHT.info, ""),
        (0.1, LIGHT.warning, "\\"),
        (0.51, LIGHT.error, "/"),
        (1.0, LIGHT.error, "/"),
        (None, LIGHT.muted, "."),
    ],
)
def test_the_probability_of_missing_the_limit_has_a_color_and_a_pattern(probability, color, pattern):
    figure = in_flight_chart([in_flight_row("a", 12_500)], [probability], LIGHT, 15.0)
    assert drawn(figure)["a"][3:] == (color, pattern)


def test_the_legend_explains_every_color_also_without_orders():
    names = [bars.name for bars in in_flight_chart([], [], LIGHT, 15.0).data if bars.type == "bar"]
    assert names == ["misses its limit: below 10 %", "10 % to 50 %", "above 50 %", "unknown"]


def test_an_order_id_links_to_its_order():
    figure = in_flight_chart([in_flight_row("a-1", 100)], [None], LIGHT, 15.0, "/base/orders?order=")
    (tick,) = figure.layout.yaxis.ticktext
    assert tick.startswith('<a href="/base/orders?order=a-1" target="_self"')
    assert tick.endswith(">a-1</a>")


def test_an_order_with_another_limit_shows_it():
    rows = [in_flight_row("a", 100), in_flight_row("b", 100, limit_ms=4_000)]
    (others,) = (
        each for each in in_flight_chart(rows, [None, None], LIGHT, 15.0).data if each.type == "scatter"
    )
    assert (list(others.x), list(others.y)) == ([4.0], [1])


def test_compensation_is_labelled():
    rows = [in_flight_row("a", 100, abort_reason="deadline", current_step="refund")]
    assert drawn(in_flight_chart(rows, [None], LIGHT, 15.0))["a"][2] == "compensating, refund"


def test_the_in_flight_chart_has_the_same_height_for_any_number_of_orders():
    empty = in_flight_chart([], [], LIGHT, 15.0)
    full = in_flight_chart([in_flight_row(str(n), n) for n in range(40)], [None] * 40, LIGHT, 15.0)
    assert empty.layout.height == full.layout.height
    assert list(empty.layout.yaxis.range) == list(full.layout.yaxis.range)
    assert len(drawn(full)) == ROWS


def test_an_order_past_the_limit_extends_the_axis():
    figure = in_flight_chart([in_flight_row("a", 60_000)], [1.0], LIGHT, 15.0)
    assert figure.layout.xaxis.range[1] > 60
    assert [shape.x0 for shape in figure.layout.shapes] == [15.0]


def test_long_ids_are_shortened_at_their_start():
    assert short_id("x" * 30 + "-17").endswith("-17")
    assert len(short_id("x" * 40)) == 22
    assert short_id("short") == "short"


def test_throughput_has_lines_for_started_and_finished_orders_and_for_rejected_starts():
    rows = [{"at": after(n), "started": n, "finished": 2 * n, "rejected": 0} for n in range(3)]
    figure = throughput.throughput_chart(rows, LIGHT, limit_ms=LIMIT_MS)
    assert [list(line.y) for line in figure.data] == [[0, 1, 2], [0, 2, 4]]
    assert throughput.mean_rate(rows, "started", 2) == 1.5
    assert throughput.mean_rate([], "started") == 0.0
    rows[1]["rejected"] = 9
    figure = throughput.throughput_chart(rows, LIGHT, limit_ms=LIMIT_MS)
    assert [list(line.y) for line in figure.data][2:] == [[0, 9, 0]]
    assert figure.data[2].name == "rejected per second"
    assert figure.layout.yaxis.range[1] > 9


def test_throughput_shows_fault_profiles_and_disturbances():
    rows = [{"at": after(n), "started": 1, "finished": 1, "rejected": 0} for n in range(60)]
    figure = throughput.throughput_chart(
        rows,
        LIGHT,
        limit_ms=LIMIT_MS,
        faults=[FaultSpan("slow", 1, after(-100), None)],
        disturbances=[Disturbance(None, after(20), "kill", "api")],
    )
    assert sorted(each.text for each in figure.layout.annotations) == ["kill api (+15 s)", "slow"]


def test_the_course_of_orders_in_flight_ends_with_the_present_number():
    rows = [{"started": 5, "finished": 0}, {"started": 3, "finished": 1}, {"started": 0, "finished": 4}]
    assert throughput.in_flight_history(rows, 3) == [5, 7, 3]
    assert throughput.in_flight_history([], 3) == []


def test_requests_that_came_too_late_have_another_symbol():
    found = marks(order_details(*ORDER_EVENTS))
    assert [(mark.at_seconds, mark.name, mark.is_accepted) for mark in found] == [
        (2.9, "update address", True),
        (3.6, "cancel order", False),
    ]
    figure = timeline(order_details(*ORDER_EVENTS), LIGHT)
    requests = figure.data[-1]
    assert list(requests.text) == ["update address", "cancel order, too late"]
    assert list(requests.marker.symbol) == ["diamond", "x"]


def test_the_timeline_has_the_limit_and_a_pattern_for_each_outcome():
    figure = timeline(order_details(*ORDER_EVENTS), DARK)
    assert [shape.x0 for shape in figure.layout.shapes] == [15.0]
    patterns = {trace.name: trace.marker.pattern.shape for trace in figure.data if trace.type == "bar"}
    assert len({patterns["ok"], patterns["error"], patterns["timeout"]}) == 3


def test_user_text_in_hover_boxes_is_escaped():
    figure = timeline(order_details(*ORDER_EVENTS), LIGHT)
    hovers = [text for trace in figure.data for text in trace.customdata]
    assert any("&lt;b&gt;luck" in text for text in hovers)
    assert any("&lt;i&gt;x" in text for text in hovers)
    assert not any("<b>" in text or "<i>" in text for text in hovers)


C, F = State.COMPLETED, State.FAILED


def test_the_histogram_stacks_outcomes_between_their_bucket_edges():
    buckets = [Bucket(4_089, {C: 3}), Bucket(15_000, {C: 2, F: 1}), Bucket(15_664, {F: 4})]
    figure = distribution.histogram(buckets, LIGHT, LIMIT_MS, 15_600)
    by_name = {trace.name: trace for trace in figure.data}
    assert list(by_name["completed"].y) == [3, 2]
    assert list(by_name["failed"].y) == [1, 4]
    middle, width = by_name["failed"].x[0], by_name["failed"].width[0]
    assert 10 ** (middle - width / 2) == pytest.approx(14.364)
    assert 10 ** (middle + width / 2) == pytest.approx(15.0)
    assert figure.layout.shapes[0].x0 == pytest.approx(math.log10(15))


def test_no_bar_crosses_the_limit():
    buckets = [Bucket(15_000, {C: 1}), Bucket(15_664, {C: 1})]
    (bars,) = distribution.histogram(buckets, LIGHT, LIMIT_MS, 15_600).data
    limit = log_seconds(LIMIT_MS)
    for middle, width in zip(bars.x, bars.width, strict=True):
        assert middle + width / 2 <= limit + 1e-9 or middle - width / 2 >= limit - 1e-9


def test_the_cumulative_distribution_is_in_percent_and_names_two_curves():
    figure = distribution.cumulative(
        {"a": [(1_000, 0.5), (2_000, 1.0)], "b": [(3_000, 1.0)]}, LIGHT, LIMIT_MS
    )
    assert [list(trace.y) for trace in figure.data] == [[50.0, 100.0], [100.0]]
    assert list(figure.data[0].x) == [0.0, pytest.approx(math.log10(2))]
    assert figure.data[0].line.dash != figure.data[1].line.dash
    assert figure.layout.showlegend


PLAN = Plan(Selection(), NOON, after(600), is_exact=True)
TIME_RANGE = TimeRange(PLAN, LIMIT_MS, [], [])


def test_percentile_lines_have_a_gap_where_there_are_no_orders():
    times = {0.5: 1_000, 0.95: 2_000, 0.99: 3_000, 1.0: 4_000}
    slices = [Slice(NOON, 300, times), Slice(after(5), 300, times), Slice(after(100), 100, times)]
    figure = over_time.percentiles(slices, TIME_RANGE, LIGHT)
    assert PLAN.slice_seconds == 5
    assert list(figure.data[0].y) == [1.0, 1.0, None, 1.0]
    assert list(figure.data[3].y) == [4.0, 4.0, None, 4.0]


def test_a_percentile_is_drawn_only_for_slices_with_enough_orders():
    times = {0.5: 1_000, 0.95: 2_000, 0.99: 3_000, 1.0: 4_000}
    figure = over_time.percentiles([Slice(NOON, 20, times), Slice(after(5), 19, times)], TIME_RANGE, LIGHT)
    assert {line.name: list(line.y) for line in figure.data} == {
        "p50": [1.0, 1.0], "p95": [2.0, None], "longest": [4.0, 4.0]
    }  # fmt: skip


def test_the_percentile_axis_has_equal_distances_for_each_nine():
    curve = [(1_000, 0.5), (2_000, 0.9), (8_000, 0.99), (9_000, 1.0)]
    figure = distribution.by_percentile(curve, 1_000, LIGHT, LIMIT_MS, target=0.99)
    axis = figure.layout.xaxis
    assert list(axis.ticktext) == ["50", "90", "99", "99.9"]
    assert list(axis.tickvals) == pytest.approx([math.log10(2), 1, 2, 3])
    assert list(figure.data[0].y) == [1.0, 2.0, 8.0, 9.0]
    # The longest time is drawn up to the last percentile that differs from it.
    assert list(figure.data[0].x[1:]) == pytest.approx([1, 2, 3])
    target, limit = figure.layout.shapes
    assert (target.x0, limit.y0) == (pytest.approx(2), 15.0)
    assert [note.text for note in figure.layout.annotations] == ["target 99 %", "limit 15 s"]


@pytest.mark.parametrize(("orders", "ticks"), [(1, []), (2, ["50"]), (10, ["50", "90"]), (99, ["50", "90"])])
def test_the_percentile_axis_ends_where_orders_are_too_few(orders, ticks):
    figure = distribution.by_percentile([(1_000, 1.0)], orders, LIGHT, LIMIT_MS, target=0.99)
    assert list(figure.layout.xaxis.ticktext) == ticks


def test_the_heatmap_has_each_count_in_its_cell():
    cells = [Cell(NOON, 4_089, 2), Cell(after(5), 4_089, 1), Cell(after(5), 4_460, 7)]
    (heat,) = over_time.heatmap(cells, TIME_RANGE, LIGHT).data
    assert [list(row) for row in heat.z] == [[2, 1], [None, None], [None, 7]]


def test_the_heatmap_draws_the_unbounded_bucket_at_twice_its_lower_edge():
    longest = EDGES_MS[-2]
    (heat,) = over_time.heatmap([Cell(NOON, EDGES_MS[-1], 3)], TIME_RANGE, LIGHT).data
    assert list(heat.y) == [log_seconds(longest), log_seconds(2 * longest)]
    assert heat.customdata[0][0] == "more than 3840.00 s"


def test_the_heatmap_is_empty_where_there_are_no_orders():
    cells = [Cell(NOON, 4_089, 2), Cell(after(15), 4_089, 1)]
    (heat,) = over_time.heatmap(cells, TIME_RANGE, LIGHT).data
    assert [list(row) for row in heat.z] == [[2, None, None, 1]]
    # The edges of the cells: each cell is as wide as its slice.
    assert list(heat.x) == [NOON, after(5), after(10), after(15), after(20)]


def test_adjacent_spans_of_a_profile_are_one_band():
    faults = [
        FaultSpan("lossy", 1, NOON, after(60)),
        FaultSpan("lossy", 2, after(60), after(120)),
        FaultSpan("none", 2, after(120), after(180)),
        FaultSpan("lossy", 2, after(180), None),
    ]
    figure = over_time.percentiles([], TIME_RANGE._replace(faults=faults), LIGHT)
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"] == [
        (NOON, after(120)),
        (after(180), after(600)),
    ]


def test_a_profile_has_no_label_that_would_cover_the_one_before():
    faults = [
        FaultSpan(name, 1, after(start), after(start + 5))
        for start, name in ((0, "lossy"), (10, "slow"), (20, "outage"), (60, "assignment"))
    ]
    figure = over_time.percentiles([], TIME_RANGE._replace(faults=faults), LIGHT)
    texts = [each.text for each in figure.layout.annotations]
    assert [text for text in texts if not text.startswith("limit")] == ["lossy", "assignment"]


def test_faults_and_disturbances_are_drawn_as_bands():
    faults = [
        FaultSpan("none", 0, after(-100), after(60)),
        FaultSpan("assignment", 1, after(60), after(120)),
        FaultSpan("outage", 1, after(120), None),
        FaultSpan("slow", 1, after(-90), after(-80)),
    ]
    disturbances = [
        Disturbance("r", after(30), "kill", "<b>w</b>"),
        Disturbance("r", after(590), "pause", "api"),
        Disturbance("r", after(595), "pause", "postgres"),
        Disturbance("r", after(598), "resume", "api"),
    ]
    time_range = TIME_RANGE._replace(faults=faults, disturbances=disturbances)
    figure = over_time.percentiles([], time_range, LIGHT)
    rectangles = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert [(shape.x0, shape.x1) for shape in rectangles] == [
        (after(60), after(120)),
        (after(120), after(600)),
        (after(30), after(45)),
        (after(590), after(598)),
        (after(595), after(600)),
    ]
    starts = [shape.x0 for shape in figure.layout.shapes if shape.type == "line" and shape.xref == "x"]
    assert starts == [after(30), after(590), after(595)]
    assert [annotation.text for annotation in figure.layout.annotations][-5:] == [
        "assignment",
        "outage",
        "kill &lt;b&gt;w&lt;/b&gt; (+15 s)",
        "pause api",
        "pause postgres",
    ]


def test_time_breakdown_segments_sum_to_the_completion_time():
    row = {f"{segment}_ms": n for n, segment in enumerate(time_breakdown.SEGMENTS, start=1)}
    row |= {"order_id": "a", "outcome": "completed", "completion_ms": sum(row.values())}
    figure = time_breakdown.time_breakdown([row], LIGHT, LIMIT_MS)
    assert sum(trace.x[0] for trace in figure.data) == pytest.approx(0.036)
    # The dashboard opens the order of a clicked bar.
    assert {trace.customdata[0] for trace in figure.data} == {"a"}


def test_live_charts_have_no_zoom():
    for figure in (
        in_flight_chart([], [], LIGHT, 15.0),
        throughput.throughput_chart([], LIGHT, limit_ms=LIMIT_MS),
        timeline(order_details(finished_at=None), LIGHT),
    ):
        assert figure.layout.dragmode is False
        assert figure.layout.xaxis.fixedrange
        assert figure.layout.yaxis.fixedrange
    assert timeline(order_details(), LIGHT).layout.xaxis.fixedrange is None
