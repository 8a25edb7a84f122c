"""Overview: orders in flight, completion times, SLO status, components and faults."""

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import api_reads, clients
from dashboard.data.cached import cached
from dashboard.filters import WINDOWS
from dashboard.view_models.component_health import components
from dashboard.view_models.slo_status import SLO_TARGET, slo_status
from db.read_models import latency, live_orders
from loadtest.charts.in_flight import ROWS, in_flight_chart
from loadtest.charts.throughput import mean_rate, throughput_chart
from loadtest.verdict.slo import SloVerdict
from orchestrator.gateways.fault_injection import PROFILES

THROUGHPUT_SECONDS = 120
RESULT_KEY = "faults"
IS_HEALTHY = {SloVerdict.MET: True, SloVerdict.BREACHED: False, SloVerdict.NOT_PROVEN: None}

in_flight = cached(live_orders.in_flight)
recent_outcomes = cached(live_orders.recent_outcomes)
throughput = cached(live_orders.throughput)

limit_seconds = clients.settings().order_deadline_seconds
is_live = page.page_header("Overview", live=True)
page.stop_on_invalid_query("overview")
window = st.segmented_control(
    "Time window", list(WINDOWS), default="5 min", required=True, key="window", bind="query-params"
)
window_seconds = WINDOWS[window or "5 min"]


def metrics() -> None:
    """Draw in-flight count, throughput, completion times, outcomes and the SLO sentence."""
    open_orders, recent = in_flight(), recent_outcomes(window_seconds)
    rates = throughput(THROUGHPUT_SECONDS)
    shown = [
        ("In flight", f"{open_orders.orders:,}", f"{open_orders.overdue:,} overdue"),
        ("Started / s", f"{mean_rate(rates, 'started'):.1f}", "last 10 s"),
        ("Finished / s", f"{mean_rate(rates, 'finished'):.1f}", "last 10 s"),
    ]
    times = {"p50": recent.p50_ms, "p95": recent.p95_ms, "p99": recent.p99_ms, "Longest": recent.max_ms}
    for name, ms in times.items():
        of_limit = "–" if ms is None else f"{ms / 10 / limit_seconds:.0f} % of {limit_seconds:g} s"
        shown.append((name, page.seconds(ms), of_limit))
    for outcome, orders in recent.outcomes.items():
        share = f"{100 * orders / recent.finished:.1f} %" if recent.finished else "–"
        shown.append((outcome.capitalize(), f"{orders:,}", share))
    page.metric_grid(shown)
    orders, late = recent.finished + open_orders.overdue, recent.late + open_orders.overdue
    status = slo_status(orders, late, SLO_TARGET)
    icon, color = page.STATUS_STYLE[IS_HEALTHY[status.verdict] if status.verdict else None]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(f"SLO {status.verdict or 'unknown'}", icon=icon, color=color)
        st.markdown(status.sentence, width="stretch")


def orders_in_flight() -> None:
    rows, open_orders = cached(live_orders.orders_by_deadline)(ROWS), in_flight()
    orders = open_orders.orders
    st.subheader("In flight", anchor=False)
    count = f"{ROWS} of {orders:,} orders" if orders > ROWS else f"{orders} order{'s' if orders != 1 else ''}"
    compensating = f" ({open_orders.compensating:,} compensating)" if open_orders.compensating else ""
    st.caption(f"{count} in flight{compensating}, closest to the deadline first")
    page.chart(
        in_flight_chart(rows, page.palette(), limit_seconds),
        "in-flight",
        f"{orders} orders in flight with their elapsed time against the limit",
    )
    page.chart(
        throughput_chart(throughput(THROUGHPUT_SECONDS), page.palette()),
        "throughput",
        "Orders started and finished per second",
    )
    if not rows and cached(live_orders.last_finished_at, 30)() is None:
        page.empty_state(
            "No orders yet", "Start one on the Orders page, or a load test on the Load tests page."
        )


def component_health() -> None:
    st.subheader("Components", anchor=False)
    for component in components(api_reads.health()):
        icon, color = page.STATUS_STYLE[component.is_healthy]
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge(component.name, icon=icon, color=color)
            st.caption(component.status, width="content")


def active_profile() -> None:
    st.subheader("Faults", anchor=False)
    active = cached(latency.active_faults)()
    name, seed = (active.profile, active.seed) if active else ("none", 0)
    since = f", since {active.since:%H:%M:%S} UTC" if active else ""
    st.caption(f"Active profile: {name} (seed {seed}){since}")


def fault_form() -> None:
    with st.form("faults", border=False):
        left, right = st.columns([3, 2], vertical_alignment="bottom")
        left.selectbox("Profile", list(PROFILES), key="fault-profile")
        right.number_input("Seed", min_value=0, max_value=2**53 - 1, value=1, step=1, key="fault-seed")
        st.form_submit_button("Apply fault profile", icon=":material/bolt:", on_click=apply_profile)


def apply_profile() -> None:
    profile, seed = st.session_state["fault-profile"], int(st.session_state["fault-seed"])
    api = clients.api()
    page.run_action(
        RESULT_KEY, lambda: api.set_faults(profile, seed), f"Applied fault profile {profile} (seed {seed})."
    )
    cached(latency.active_faults).clear()


page.live_fragment(metrics, is_live)
wide, narrow = st.columns([5, 3], gap="medium")
with wide:
    page.live_fragment(orders_in_flight, is_live)
with narrow:
    page.live_fragment(component_health, is_live)
    page.live_fragment(active_profile, is_live, result_key=RESULT_KEY)
    with page.error_boundary("faults"):
        fault_form()
