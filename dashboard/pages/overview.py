"""Now: what is in flight, how quick it is against the limit, and whether every part is well."""

from typing import Literal

import streamlit as st

from dashboard.charts.in_flight import LANES, race
from dashboard.charts.throughput import pace, per_second
from dashboard.data import clients
from dashboard.data import live_data as readings
from dashboard.layout import CHART_CONFIG, answered, failures_told, head, nothing_yet, palette, refreshing
from dashboard.view_models import slo_status
from dashboard.view_models.component_health import parts_of
from dashboard.view_models.slo_sentence import limit_sentence
from orchestrator.errors import ServiceUnavailable
from orchestrator.gateways.fault_injection import PROFILES

WINDOWS = {"1 min": 60, "5 min": 300, "15 min": 900, "1 h": 3600}
TARGET = 0.99
PACES = ("started", "finished")
TILES_A_ROW = 5
FAULTS = "faults"

limit_seconds = clients.settings().order_deadline_seconds
is_live = head("Now", live=True)
window = st.segmented_control(
    "Figures of the last", list(WINDOWS), default="5 min", required=True, key="window", bind="query-params"
)
window_seconds = WINDOWS[window or "5 min"]


def figures() -> None:
    """In flight, pace, times against the limit, outcomes, and how sure it is that the limit is kept."""
    in_flight = readings.in_flight()
    lately = readings.recent_outcomes(window_seconds)
    rows = readings.pace()
    overdue = f"{in_flight.overdue:,} past the limit" if in_flight.overdue else "none past the limit"
    tiles = [("In flight", f"{in_flight.orders:,}", overdue)]
    tiles += [(f"{name.capitalize()} / s", f"{per_second(rows, name):.1f}", "last 10 s") for name in PACES]
    for name, ms in (
        ("p50", lately.p50_ms),
        ("p95", lately.p95_ms),
        ("p99", lately.p99_ms),
        ("Longest", lately.max_ms),
    ):
        of_limit = "–" if ms is None else f"{ms / 10 / limit_seconds:.0f} % of {limit_seconds:g} s"
        tiles.append((name, slo_status.seconds(ms), of_limit))
    for outcome, orders in lately.outcomes.items():
        of_all = f"{100 * orders / lately.finished:.1f} %" if lately.finished else "–"
        tiles.append((outcome.capitalize(), f"{orders:,}", of_all))
    with st.grid(TILES_A_ROW, min_column_width=150):
        for label, value, below in tiles:
            st.metric(label, value, below, delta_color="off", delta_arrow="off", border=True)
    st.markdown(limit_sentence(lately.finished + in_flight.overdue, lately.late + in_flight.overdue, TARGET))


def track() -> None:
    """The race of the orders in flight."""
    rows = readings.race(LANES)
    orders = readings.in_flight().orders
    st.subheader("In flight", anchor=False)
    st.caption(
        f"The {LANES} nearest to their limit of {orders:,}"
        if orders > LANES
        else "Nearest to the limit first"
    )
    st.plotly_chart(
        race(rows, palette(), limit_seconds),
        key="race",
        config=CHART_CONFIG,
        alt=f"{orders} orders in flight, each with its time so far against the limit",
    )
    st.plotly_chart(
        pace(readings.pace(), palette()),
        key="pace",
        config=CHART_CONFIG,
        alt="Orders started and finished a second",
    )
    if not rows and readings.last_finished_at() is None:
        nothing_yet("No order yet", "Start one on the page Orders, or a load test on the page Load tests.")


def lights() -> None:
    """The five targets; those that need no database are told without it."""
    st.subheader("Targets", anchor=False)
    speed, _ = readings.api_look() or (None, {})
    workers = readings.worker_use()
    for light in (
        _completion(),
        slo_status.api_light(speed),
        slo_status.query_light(list(clients.reader().times_ms), clients.reader().has_last_failed),
        slo_status.cpu_light(workers),
        slo_status.memory_light(workers),
    ):
        icon, colour = _LAMPS[light.is_kept]
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge(f"{light.name} {light.target}", icon=icon, color=colour)
            st.caption(light.figure, width="content")


def _completion() -> slo_status.Light:
    try:
        lately, in_flight = readings.recent_outcomes(window_seconds), readings.in_flight()
    except ServiceUnavailable:
        return slo_status.unknown_completion_light(limit_seconds)
    return slo_status.completion_light(lately, in_flight, limit_seconds)


def parts() -> None:
    """The health of each part."""
    st.subheader("Parts", anchor=False)
    _, queues = readings.api_look() or (None, {})
    for part in parts_of(readings.health(), queues):
        icon, colour = _LAMPS[part.is_well]
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge(part.name, icon=icon, color=colour)
            st.caption(part.state, width="content")


_LAMPS: dict[bool | None, tuple[str, Literal["green", "red", "gray"]]] = {
    True: (":material/check_circle:", "green"),
    False: (":material/error:", "red"),
    None: (":material/hourglass_empty:", "gray"),
}


def faults_in_force() -> None:
    """The fault profile and the switch for it."""
    st.subheader("Faults", anchor=False)
    now = readings.faults_in_force()
    name, seed = (now.profile, now.seed) if now else ("none", 0)
    since = f", since {now.since:%H:%M:%S} UTC" if now else ""
    st.caption(f"In force: {name}, seed {seed}{since}")


def fault_switch() -> None:
    """Changes what the outside does wrong; every worker follows within a second."""
    with st.form("faults", border=False):
        left, right = st.columns([3, 2], vertical_alignment="bottom")
        left.selectbox("Profile", list(PROFILES), key="fault-profile")
        right.number_input("Seed", min_value=0, max_value=2**53 - 1, value=1, step=1, key="fault-seed")
        st.form_submit_button("Put in force", icon=":material/bolt:", on_click=put_in_force)


def put_in_force() -> None:
    """Switches to the faults that the form says."""
    profile, seed = st.session_state["fault-profile"], int(st.session_state["fault-seed"])
    answered(FAULTS, lambda: clients.api().set_faults(profile, seed), f"Faults: {profile}, seed {seed}.")
    readings.faults_in_force.clear()


refreshing(figures, is_live)
wide, narrow = st.columns([5, 3], gap="medium")
with wide:
    refreshing(track, is_live)
with narrow:
    refreshing(lights, is_live)
    refreshing(parts, is_live)
    refreshing(faults_in_force, is_live, answers_of=FAULTS)
    with failures_told("fault_switch"):
        fault_switch()
