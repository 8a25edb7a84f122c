"""Latency: the distribution of completion times and the time breakdown of the slowest orders."""

from datetime import datetime
from functools import partial
from urllib.parse import urlencode

import streamlit as st

from dashboard import export, filters
from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.page_elements import (
    empty_state,
    error_boundary,
    live_fragment,
    page_header,
    seconds,
    select,
    show_invalid_query,
    stop_on_invalid_query,
)
from dashboard.sections import latency_charts, slo_banner
from dashboard.view_models.slo_status import SLO_TARGET
from db.domain import TERMINAL_STATES
from db.read_models import latency
from db.read_models.latency import EXACT_ORDERS, Slo, Summary
from db.read_models.percentiles import min_count
from orchestrator.errors import RequestMalformed

fault_profiles = cached(latency.fault_profiles, CHART_SECONDS)


def check_query() -> None:
    """Show an error and end the page if the URL query is not valid; show its times in the widgets."""
    stop_on_invalid_query("latency")
    try:
        selection = filters.selection_of(st.query_params)
        if selection.fault_profile not in (None, *fault_profiles()):
            raise RequestMalformed("unknown fault profile")
    except RequestMalformed as error:
        show_invalid_query("latency", error)
    for name, time in filters.with_widget_times(st.query_params.items()):
        # The widget reads only times in its own format, which has no offset and no fraction.
        if time != st.query_params[name]:
            st.session_state[name] = datetime.fromisoformat(time)


def select_orders() -> dict[str, str]:
    """Draw the filters, which are bound to the URL query, and return them as a query."""
    with st.grid(4, min_column_width=150, vertical_alignment="bottom"):
        runs = [row["run_id"] for row in cached(latency.run_names, CHART_SECONDS)()]
        select("Run", "run", runs, accept_new_options=True)
        time_range = select("Time range", "range", list(filters.RANGES), on_change=clear_times)
        for name in ("since", "until"):
            st.datetime_input(
                f"Accepted {name} (UTC)",
                value=None,
                min_value=datetime(filters.YEARS[0], 1, 1),  # noqa: DTZ001  the widget requires naive times
                max_value=datetime(filters.YEARS[-1], 12, 31, 23, 59),  # noqa: DTZ001
                key=name,
                step=60,
                bind="query-params",
                format="YYYY-MM-DD",
                disabled=time_range is not None,
            )
        select("Outcome", "outcome", [state.value for state in TERMINAL_STATES])
        select("Fault profile", "faults", fault_profiles())
        if st.button("Refresh", icon=":material/refresh:", width="stretch"):
            st.cache_data.clear()
            latency_charts.clear()
    return {
        name: value.isoformat(timespec="minutes") if isinstance(value, datetime) else value
        for name in filters.NAMES
        if (value := st.session_state.get(name))
    }


def clear_times() -> None:
    st.session_state["since"] = st.session_state["until"] = None


def show(query: dict[str, str]) -> None:
    selection = filters.selection_of(query)
    plan = cached(latency.plan, CHART_SECONDS)(selection)
    finished = cached(latency.summary, CHART_SECONDS)(plan) if plan else None
    overdue = cached(latency.overdue_orders, CHART_SECONDS)(selection)
    if not overdue and (finished is None or finished.orders == 0):
        empty_state("No finished orders", "Change the filters, or start orders on the Orders page.")
        return
    default = Slo(clients.settings().order_deadline_seconds, SLO_TARGET)
    slo = cached(latency.slo_of, CHART_SECONDS)(selection.run_id, default)
    if plan is None or finished is None or finished.orders == 0:
        show_metrics(Summary(0, 0, {}), overdue, slo)
        return
    st.link_button(
        f"Download CSV ({finished.orders:,} orders)",
        f"{clients.settings().dashboard_base_path}{export.PATH}?{urlencode(query)}",
        icon=":material/download:",
    )
    st.caption(
        "Exact values"
        if plan.is_exact
        else f"More than {EXACT_ORDERS:,} orders: counts, late orders and the longest time are exact, "
        "percentiles are accurate to 4.4 %"
    )
    show_metrics(finished, overdue, slo)
    latency_charts.show(plan, finished, slo)


def show_metrics(finished: Summary, overdue: int, slo: Slo) -> None:
    orders, late = finished.orders + overdue, finished.late + overdue
    slo_banner.show(orders, late, slo.target)
    with st.grid(7, min_column_width=145):
        st.metric("Orders", f"{orders:,}", border=True)
        st.metric("Late", f"{late:,}", border=True)
        for share in latency.SHARES:
            name = f"p{100 * share:g}" if share < 1 else "Longest"
            is_shown = finished.orders >= min_count(share)
            st.metric(
                name,
                seconds(finished.times_ms[share] if is_shown else None),
                border=True,
                help=None if is_shown else f"{name} needs {min_count(share):,} finished orders.",
            )
    st.caption(f"Limit: {slo.limit_seconds:g} s")
    if overdue:
        st.caption(
            f"{overdue:,} orders past the limit have no outcome yet. They count as late; percentiles, charts "
            "and CSV do not include them."
        )


is_live = page_header("Latency", live=True)
with error_boundary("latency-filters"):
    check_query()
    query = select_orders()
    live_fragment(partial(show, query), is_live, every=CHART_SECONDS)
