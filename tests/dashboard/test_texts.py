"""Words and addresses: what users typed stays text, and a link reproduces a view."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as some
from markdown_it import MarkdownIt

from dashboard import filters, plain_text
from dashboard.data.api_metrics import ApiMeter, ApiSpeed, cumulated, queues_served, speed_between
from dashboard.sections.order_view import attempts_of, may_be_approved, may_be_cancelled, may_be_rejected
from dashboard.sections.orders_table import place_of, search_of
from dashboard.sections.start_order import items_of, numbered, problems_of
from dashboard.view_models.component_health import parts_of
from dashboard.view_models.invariants import states_of
from dashboard.view_models.slo_sentence import limit_sentence
from db.audit import MAX_VIOLATIONS
from db.domain import Address, Item, State
from db.read_models.latency import Selection
from db.read_models.order_search import OrderDetails
from orchestrator.errors import RequestMalformed

pd = pytest.importorskip("pandas")

NASTY = [
    "<b>x</b>",
    "![x](http://evil/x.png)",
    "$x$",
    ":red[x]",
    ":material/x:",
    "`x`",
    "# x",
    "- x",
    "1. x",
    "a\n\nb",
    "\\",
]


@given(some.text())
def test_any_text_is_one_paragraph_of_itself_in_markdown(text):
    escaped = plain_text.markdown(text)
    tokens = MarkdownIt().parse("x " + escaped)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    kinds = {child.type for child in tokens[1].children}
    assert kinds <= {"text", "text_special", "softbreak"}


@pytest.mark.parametrize("text", NASTY)
def test_nothing_that_streamlit_reads_as_markup_is_left(text):
    escaped = plain_text.markdown(text)
    for n, character in enumerate(escaped):
        if character in "<![$:`#-.*_":
            assert escaped[n - 1] == "\\", escaped


def test_charts_get_entities_for_tags():
    assert plain_text.chart('<a href="x">&</a>') == '&lt;a href="x"&gt;&amp;&lt;/a&gt;'


moments = some.datetimes(
    min_value=datetime(2020, 1, 1),  # noqa: DTZ001  the strategy wants it without, and adds it
    max_value=datetime(2030, 1, 1),  # noqa: DTZ001
    timezones=some.just(UTC),
)
selections = some.builds(
    Selection,
    run_id=some.none() | some.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    since=some.none() | moments,
    until=some.none() | moments,
    outcome=some.none() | some.sampled_from([State.COMPLETED, State.CANCELLED, State.FAILED]),
    fault_profile=some.none() | some.sampled_from(["none", "assignment", "custom"]),
)


@given(selections)
def test_an_address_reproduces_its_selection(selection):
    assert filters.selection_of(filters.query_of(selection)) == selection


@given(some.dictionaries(some.sampled_from(["run", "since", "until", "outcome", "faults"]), some.text()))
def test_an_unreadable_address_is_a_sentence_and_never_all_orders(query):
    try:
        selection = filters.selection_of(query)
    except RequestMalformed:
        return
    assert sum(value is not None for value in vars(selection).values()) == sum(map(bool, query.values()))


@pytest.mark.parametrize(
    "query",
    [
        {"run": "my run"},
        {"run": "x" * 65},
        {"run": "a\n"},
        {"outcome": "nonsense"},
        {"faults": "no-profile"},
        {"since": "yesterday"},
        {"until": "0001-01-01T00:00+12:00"},
        {"until": "9999-12-31T23:59:59"},
        {"since": "1999-12-31T23:59"},
    ],
)
def test_what_cannot_be_read_is_said(query):
    with pytest.raises(RequestMalformed):
        filters.selection_of(query)


def test_a_selection_is_widened_to_whole_minutes():
    selection = Selection(
        since=datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC), until=datetime(2026, 1, 1, 12, 5, 1, tzinfo=UTC)
    )
    assert selection.since == datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    assert selection.until == datetime(2026, 1, 1, 12, 6, tzinfo=UTC)


METRICS = """# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le="0.1",method="GET",route="/a",status="200"} %s
http_request_duration_seconds_bucket{le="1.0",method="GET",route="/a",status="200"} %s
http_request_duration_seconds_bucket{le="+Inf",method="GET",route="/a",status="200"} %s
http_request_duration_seconds_bucket{le="0.1",method="GET",route="/a?wait",status="200"} 0.0
http_request_duration_seconds_bucket{le="+Inf",method="GET",route="/a?wait",status="200"} 99.0
http_request_duration_seconds_bucket{le="+Inf",method="GET",route="/audit",status="200"} 99.0
"""


def test_the_api_is_judged_by_answers_that_nobody_asked_it_to_hold():
    assert cumulated(METRICS % (5.0, 8.0, 9.0)) == {0.1: 5.0, 1.0: 8.0, math.inf: 9.0}


def test_the_speed_of_the_api_is_what_was_added():
    before, after = {0.1: 5.0, 1.0: 8.0, math.inf: 9.0}, {0.1: 104.0, 1.0: 108.0, math.inf: 109.0}
    assert speed_between(before, after) == ApiSpeed(100, 0, 100.0)
    assert speed_between(after, after) == ApiSpeed(0, 0, None)
    assert speed_between({}, before) == ApiSpeed(9, 1, math.inf)


def test_an_api_that_was_started_again_counts_from_zero():
    answers = iter([METRICS % (90.0, 90.0, 90.0), METRICS % (1.0, 2.0, 2.0)])
    meter = ApiMeter()
    assert meter.look(lambda: next(answers))[0].requests == 90
    assert meter.look(lambda: next(answers)) == (ApiSpeed(2, 0, 1_000.0), {})


def test_parts_are_unknown_while_the_api_is_away():
    assert [(part.name, part.is_well) for part in parts_of(None, {})] == [
        ("API", False), ("PostgreSQL", None), ("Temporal", None), ("Workers", None),
    ]  # fmt: skip


def test_each_task_queue_is_a_part_where_the_api_tells_them_apart():
    report = {"database_connected": True, "temporal_connected": False, "workers_healthy": False}
    assert [part.is_well for part in parts_of(report, {})] == [True, True, False, False]
    queues = queues_served(
        "# TYPE task_queue_served gauge\n"
        'task_queue_served{task_queue="order-tq"} 1.0\ntask_queue_served{task_queue="shipping-tq"} 0.0\n'
    )
    assert [(part.name, part.is_well) for part in parts_of(report, queues)][3:] == [
        ("order-tq", True),
        ("shipping-tq", False),
    ]


def test_invariants_carry_their_own_violations():
    report = {
        "invariants": [
            {"number": 1, "text": "one", "holds": True},
            {"number": 2, "text": "two", "holds": False},
        ],
        "violations": [{"invariant": 2, "order_id": "o", "finding": "f", "witness": {"x": 1}}],
    }
    one, two = states_of(report)
    assert (one.holds, one.violations, one.finding) == (True, [], "holds")
    assert ([violation.order_id for violation in two.violations], two.finding) == (["o"], "1 broken")


def test_as_many_violations_as_the_audit_looks_for_may_not_be_all():
    many = [
        {"invariant": 1, "order_id": f"o-{n}", "finding": "f", "witness": {}} for n in range(MAX_VIOLATIONS)
    ]
    (state,) = states_of({"invariants": [{"number": 1, "text": "one", "holds": False}], "violations": many})
    assert state.finding == f"{MAX_VIOLATIONS} or more broken"


@pytest.mark.parametrize(
    ("state", "abort_reason", "cancel", "review"),
    [
        ("received", None, True, True),
        ("in_review", None, True, True),
        ("approved", None, True, False),
        ("prepared", None, True, False),
        ("dispatched", None, False, False),
        ("completed", None, False, False),
        ("charged", "customer_cancelled", False, False),
        ("in_review", "review_expired", False, False),
    ],
)
def test_buttons_are_there_only_while_they_can_succeed(state, abort_reason, cancel, review):
    file = OrderDetails({"state": state, "abort_reason": abort_reason}, [], [])
    assert may_be_cancelled(file.order) == cancel
    assert may_be_approved(file) == may_be_rejected(file.order) == review


def test_an_order_that_is_approved_before_its_review_can_only_be_rejected():
    approval = {"kind": "signal", "detail": {"signal": "approve_order", "accepted": True, "reviewer": "ann"}}
    late = {"kind": "signal", "detail": {"signal": "update_address", "accepted": True}}
    order = {"state": "received", "abort_reason": None}
    assert not may_be_approved(OrderDetails(order, [late, approval], []))
    assert may_be_approved(OrderDetails(order, [late], []))
    assert may_be_rejected(order)


def test_attempts_are_counted_from_the_events_while_an_order_runs():
    ended = [{"kind": "attempt", "outcome": outcome} for outcome in ("ok", "error", "timeout")]
    running = {"attempts": None, "failed_attempts": None}
    assert attempts_of(OrderDetails(running, [*ended, {"kind": "state"}], [{"step": "charge"}])) == (4, 2)
    assert attempts_of(OrderDetails({"attempts": 9, "failed_attempts": 3}, ended, [])) == (9, 3)


def test_the_form_says_what_is_wrong():
    address = Address("", "Springfield", "IL", "62701")
    found = problems_of("no spaces please", address, [Item("A", 0, 100)])
    assert found == [
        "street is empty",
        "order_id must be 1 to 64 letters, digits, '-' or '_'",
        "line 1: quantity must be 1 to 1000000",
    ]


def test_the_lines_of_the_form_become_items_in_cents():
    lines = pd.DataFrame([
        {"sku": "A", "quantity": 2, "unit price": 19.99},
        {"sku": None, "quantity": None, "unit price": None},
        {"sku": "B", "quantity": 1.5, "unit price": 1.0},
    ])  # fmt: skip
    assert items_of(lines) == ([Item("A", 2, 1_999)], ["line 3: give a whole quantity and a price"])


def test_an_article_left_empty_in_the_editor_has_no_name():
    # As st.data_editor gives back emptied cells: text columns have a type of their own.
    lines = pd.DataFrame({"sku": ["A", None], "quantity": [1, 1], "unit price": [1.0, 1.0]}).astype(
        {"sku": "str"}
    )
    items, unreadable = items_of(lines)
    assert ([item.sku for item in items], unreadable) == (["A", ""], [])
    address = Address("1 Main Street", "Springfield", "IL", "62701")
    assert problems_of("o", address, items) == ["line 2: sku is empty"]


def test_a_batch_is_numbered_and_a_single_order_is_not():
    assert numbered("x", 1) == ["x"]
    assert numbered("x", 3) == ["x-1", "x-2", "x-3"]


def test_a_place_in_the_table_survives_the_address_bar():
    at = datetime(2026, 1, 1, 12, 0, 0, 123000, tzinfo=UTC)
    search = search_of(" a ", "late", "", place_of({"accepted_at": at, "order_id": "x~y"}))
    assert (search.prefix, search.only_late, search.before) == ("a", True, (at, "x~y"))
    assert search_of("", "any", "", "nonsense").before is None


def test_the_limit_sentence_counts_exactly():
    assert limit_sentence(0, 0, 0.99).startswith("No order finished")
    sentence = limit_sentence(1_000, 5, 0.99)
    assert "**99.50 % within the limit** (5 late of 1,000)" in sentence
    assert "Error budget 10.0 late orders, 50 % of it used" in sentence
