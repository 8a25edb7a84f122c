"""Latency: the distribution of completion times and the time breakdown of the slowest orders."""

from datetime import datetime
from urllib.parse import urlencode

import streamlit as st

from dashboard import export, filters
from dashboard.data import clients
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.page_elements import empty_state, error_boundary, page_header, seconds, select, sentence
from dashboard.sections import latency_charts
from dashboard.view_models.slo_status import slo_status
from db.domain import TERMINAL_STATES
from db.read_models import latency
from db.read_models.latency import EXACT_ORDERS, Plan, Summary
from orchestrator.errors import RequestMalformed

SLO_TARGET = 0.99

fault_profiles = cached(latency.fault_profiles, CHART_SECONDS)


def is_query_valid() -> bool:
    """Return whether the URL query is valid; if not, show an error.

    A widget ignores an invalid value, so the page would show more orders than the link selects.
    """
    try:
        profile = filters.selection_of(st.query_params).fault_profile
        if profile not in (None, *fault_profiles()):
            raise RequestMalformed("unknown fault profile")
    except RequestMalformed as error:
        st.error(sentence(error), icon=":material/link_off:")
        st.button("Show all orders", on_click=st.query_params.clear)
        return False
    return True


def select_orders() -> dict[str, str]:
    """Draw the filters, which are bound to the URL query, and return them as a query."""
    with st.grid(4, min_column_width=180, vertical_alignment="bottom"):
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
            latency_charts.latency_charts.clear()
    return {
        name: value.isoformat(timespec="minutes") if isinstance(value, datetime) else value
        for name in filters.NAMES
        if (value := st.session_state.get(name))
    }


def clear_times() -> None:
    st.session_state["since"] = st.session_state["until"] = None


def show(query: dict[str, str]) -> None:
    plan = cached(latency.plan, CHART_SECONDS)(filters.selection_of(query))
    summary = cached(latency.summary, CHART_SECONDS)(plan) if plan else None
    if plan is None or summary is None or summary.orders == 0:
        empty_state("No finished orders", "Change the filters, or start orders on the Orders page.")
        return
    st.link_button(
        f"Download CSV ({summary.orders:,} orders)",
        f"{clients.settings().dashboard_base_path}{export.PATH}?{urlencode(query)}",
        icon=":material/download:",
    )
    show_metrics(plan, summary)
    latency_charts.show(plan, summary, round(clients.settings().order_deadline_seconds * 1000))


def show_metrics(plan: Plan, summary: Summary) -> None:
    st.caption(
        "Exact values"
        if plan.is_exact
        else f"More than {EXACT_ORDERS:,} orders: counts, late orders and the longest time are exact, "
        "percentiles are accurate to 4.4 %"
    )
    with st.grid(7, min_column_width=145):
        st.metric("Orders", f"{summary.orders:,}", border=True)
        st.metric("Late", f"{summary.late:,}", border=True)
        for share, ms in summary.times_ms.items():
            st.metric(f"p{100 * share:g}" if share < 1 else "Longest", seconds(ms), border=True)
    st.markdown(slo_status(summary.orders, summary.late, SLO_TARGET).sentence)


page_header("Latency", live=False)
with error_boundary("latency"):
    if is_query_valid():
        show(select_orders())
