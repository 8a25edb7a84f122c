"""The components of the stack, and the active fault profile."""

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import api_reads, clients, local_stack
from dashboard.data.cached import cached
from dashboard.view_models.component_health import ComponentHealth, age_text, components
from db.read_models import latency
from orchestrator.gateways.fault_injection import PROFILES

RESULT_KEY = "faults"


def show() -> None:
    """Draw a table with the health, age and restarts of each component."""
    st.subheader("Components", anchor=False)
    found = components(api_reads.health(), local_stack.processes(), clients.now())
    st.markdown(
        "\n".join(["| component | status | age | restarts |", "|---|---|--:|--:|", *map(_row, found)])
    )


def _row(component: ComponentHealth) -> str:
    icon, color = page.STATUS_STYLE[component.is_healthy]
    restarts = "–" if component.restarts is None else f"{component.restarts:,}"
    age = age_text(component.age)
    return f"| :{color}[{icon}] {component.name} | {component.status} | {age} | {restarts} |"


def show_active_profile() -> None:
    st.subheader("Faults", anchor=False)
    active = cached(latency.active_faults)()
    name, seed = (active.profile, active.seed) if active else ("none", 0)
    since = f", since {active.since:%H:%M:%S} UTC" if active else ""
    st.caption(f"Active profile: {name} (seed {seed}){since}")


def show_fault_form() -> None:
    with st.form("faults", border=False):
        left, right = st.columns([3, 2], vertical_alignment="bottom")
        left.selectbox("Profile", list(PROFILES), key="fault-profile")
        right.number_input("Seed", min_value=0, max_value=2**53 - 1, value=1, step=1, key="fault-seed")
        st.form_submit_button("Apply fault profile", icon=":material/bolt:", on_click=_apply_profile)


def _apply_profile() -> None:
    profile, seed = st.session_state["fault-profile"], int(st.session_state["fault-seed"])
    api = clients.api()
    page.run_action(
        RESULT_KEY, lambda: api.set_faults(profile, seed), f"Applied fault profile {profile} (seed {seed})."
    )
    cached(latency.active_faults).clear()
