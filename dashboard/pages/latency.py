"""Latency: how completion times are distributed and where the slowest orders spent theirs."""

from datetime import UTC, datetime, timedelta

import streamlit as st

from dashboard import export, filters
from dashboard.data import cached_charts as charts
from dashboard.data import chart_data as readings
from dashboard.data import clients
from dashboard.layout import CHART_CONFIG, failures_told, head, nothing_yet, sentence
from dashboard.view_models.slo_sentence import limit_sentence
from dashboard.view_models.slo_status import seconds
from db.domain import TERMINAL_STATES
from db.read_models.latency import EXACT_ORDERS, Plan, Selection, Summary
from orchestrator.errors import RequestMalformed

TARGET = 0.99
PRESETS = {"Last hour": timedelta(hours=1), "Last day": timedelta(days=1), "Everything": None}

limit_ms = round(clients.settings().order_deadline_seconds * 1000)


def choose_time(length: timedelta | None) -> None:
    """Puts a span up to now into the two time fields, or empties them."""
    now = datetime.now(UTC).replace(tzinfo=None, second=0, microsecond=0)
    st.session_state["since"] = None if length is None else now - length
    st.session_state["until"] = None if length is None else now + timedelta(minutes=1)


def address_is_read() -> bool:
    """Says what of the address cannot be read: a filter that does not know a value leaves it out, and would
    show more orders than the link meant."""
    try:
        profile = filters.selection_of(st.query_params).fault_profile
        if profile not in (None, *readings.fault_profiles()):
            raise RequestMalformed("no such fault profile was ever in force")
    except RequestMalformed as error:
        st.error(sentence(error), icon=":material/link_off:")
        st.button("Show all orders", on_click=st.query_params.clear)
        return False
    return True


def chosen() -> Selection:
    """The filters, each of which stands in the address bar."""
    runs = [row["run_id"] for row in readings.run_names()]
    with st.grid(5, min_column_width=180, vertical_alignment="bottom"):
        st.selectbox(
            "Run",
            runs,
            index=None,
            key="run",
            bind="query-params",
            placeholder="any",
            accept_new_options=True,
        )
        for name in ("since", "until"):
            st.datetime_input(
                f"Accepted {name} (UTC)",
                value=None,
                min_value=datetime(filters.YEARS[0], 1, 1),  # noqa: DTZ001  a field has no zone
                max_value=datetime(filters.YEARS[-1], 12, 31, 23, 59),  # noqa: DTZ001
                key=name,
                step=60,
                bind="query-params",
                format="YYYY-MM-DD",
            )
        st.selectbox(
            "Outcome",
            [state.value for state in TERMINAL_STATES],
            index=None,
            key="outcome",
            bind="query-params",
            placeholder="any",
        )
        st.selectbox(
            "Faults in force",
            readings.fault_profiles(),
            index=None,
            key="faults",
            bind="query-params",
            placeholder="any",
        )
    with st.container(horizontal=True):
        for label, length in PRESETS.items():
            st.button(label, on_click=choose_time, args=(length,))
        if st.button("Read again", icon=":material/refresh:"):
            charts.forget()
    return filters.selection_of(
        {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name in filters.NAMES
            if (value := st.session_state.get(name))
        }
    )


def figures(how: Plan, summary: Summary) -> None:
    """Everything that a selection with orders shows."""
    st.caption(
        f"Exact, from each of the {summary.orders:,} orders"
        if how.is_exact
        else f"More than {EXACT_ORDERS:,} orders: counts, late orders and the longest are exact, "
        "percentiles to within 4.4 % from the rollups"
    )
    with st.grid(7, min_column_width=145):
        tiles = [("Orders", f"{summary.orders:,}"), ("Late", f"{summary.late:,}")]
        tiles += [
            (f"p{100 * share:g}" if share < 1 else "Longest", seconds(ms))
            for share, ms in summary.times_ms.items()
        ]
        for label, value in tiles:
            st.metric(label, value, border=True)
    st.markdown(limit_sentence(summary.orders, summary.late, TARGET))
    theme = st.context.theme.type
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("Histogram", anchor=False)
        _chart(
            "histogram",
            charts.histogram(how, theme, limit_ms),
            "Orders by completion time and outcome, with the limit",
        )
    with right:
        st.subheader("Share within a time", anchor=False)
        _chart(
            "ecdf",
            charts.ecdf(how, theme, limit_ms),
            "Share of the orders that took at most so long, with the limit",
        )
    st.subheader("Percentiles over time", anchor=False)
    _chart(
        "percentiles",
        charts.percentiles(how, theme, limit_ms),
        "Percentiles of completion time over the time of acceptance",
    )
    st.subheader("How many took how long", anchor=False)
    _chart(
        "heatmap", charts.heatmap(how, theme, limit_ms), "Orders by time of acceptance and completion time"
    )
    st.subheader(f"Where the slowest {min(charts.SLOWEST, summary.orders)} spent their time", anchor=False)
    st.caption("The parts of each bar sum exactly to its order's completion time.")
    _chart("split", charts.slowest(how, theme, limit_ms), "Parts of the time of the slowest orders")


def show(selection: Selection) -> None:
    """A selection, or what to do where nothing is selected."""
    plan = readings.plan(selection)
    summary = readings.summary(plan) if plan else None
    if plan is None or summary is None or summary.orders == 0:
        nothing_yet("No finished order here", "Widen the filters, or start orders on the page Orders.")
        return
    st.link_button(
        f"CSV of these {summary.orders:,} orders",
        filters.link(export.PATH, selection),
        icon=":material/download:",
    )
    figures(plan, summary)


def _chart(key: str, figure: object, alt: str) -> None:
    st.plotly_chart(figure, key=key, config=CHART_CONFIG, alt=alt)


head("Latency", live=False)
with failures_told("latency"):
    if address_is_read():
        show(chosen())
