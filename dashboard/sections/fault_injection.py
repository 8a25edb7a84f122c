"""Fault injection: apply a fault profile; kill, pause and resume a component. Each action is confirmed."""

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import clients, disturbances, local_stack
from dashboard.data.api_reads import faults_unavailable, user_may
from dashboard.data.cached import cached
from dashboard.sections import running_load_tests
from dashboard.view_models.fault_rates import RATES, rates_error, rates_of, rates_table, rates_text
from db.read_models import latency
from loadtest.chaos.single_disturbance import MAX_PAUSE_SECONDS
from loadtest.charts import plain_text
from orchestrator.gateways.fault_injection import PROFILES
from orchestrator.rest_client import Json
from orchestrator.security.key_hashing import Role

RESULT_KEY = "fault-injection"
CUSTOM = "custom"
PAUSE_SECONDS = 15

_CONSEQUENCES = {
    "kill": "The process ends with SIGKILL. The supervisor starts it again.",
    "pause": "The process stops with SIGSTOP. It resumes automatically after {seconds} s, also if you close "
    "this page.",
    "resume": "The process continues.",
}
_ICONS = {
    "kill": ":material/dangerous:",
    "pause": ":material/pause_circle:",
    "resume": ":material/play_circle:",
}

_USUAL = (("kill", "order-worker-1"), ("pause", "order-worker-1"), ("kill", "api"), ("kill", "postgres"))


def show(is_live: bool) -> None:
    """Draw the active profile and, for users with the role `chaos`, the controls."""
    st.subheader("Fault injection", anchor=False)
    page.live_fragment(show_active_profile, is_live, result_key=RESULT_KEY)
    controls()


def show_active_profile() -> None:
    active = cached(latency.active_faults)()
    name, seed = (active.profile, active.seed) if active else ("none", 0)
    since = f", since {active.since:%H:%M:%S} UTC" if active else ""
    st.caption(f"Active profile: {name} (seed {seed}){since}")


@st.fragment
def controls() -> None:
    """Draw the controls, or why there are none."""
    with page.error_boundary("fault-injection"):
        if (problem := faults_unavailable()) is not None:
            st.info(plain_text.markdown(problem), icon=":material/block:")
        elif not user_may(Role.CHAOS):
            st.caption(f"Fault injection requires a key of role {Role.CHAOS.word}.")
        else:
            _profile_controls()
            _component_controls()


@st.fragment
def buttons() -> None:
    """Draw a button for each usual disturbance of a demonstration, and a menu with all controls."""
    with page.error_boundary("fault-buttons"), st.container(horizontal=True):
        if user_may(Role.CHAOS) and faults_unavailable() is None:
            for profile in ("none", "assignment", "outage"):
                if st.button(f"Faults: {profile}", icon=":material/bolt:"):
                    _confirm_profile(profile, 1, None)
            names = [each.name for each in local_stack.processes()] if local_stack.serves_the_api() else []
            for verb, component in _USUAL:
                if component in names and st.button(f"{verb.capitalize()} {component}", icon=_ICONS[verb]):
                    confirm_disturbance(verb, component)
        with st.popover("More", icon=":material/tune:"):
            controls()


def _profile_controls() -> None:
    left, right = st.columns([3, 2])
    profile = left.selectbox("Profile", [*PROFILES, CUSTOM], key="fault-profile")
    seed = right.number_input("Seed", min_value=0, max_value=2**53 - 1, value=1, step=1, key="fault-seed")
    rates = _edited_rates() if profile == CUSTOM else None
    error = None if rates is None else rates_error(rates)
    if error is not None:
        st.error(plain_text.markdown(error), icon=":material/error:")
    if st.button("Apply fault profile", icon=":material/bolt:", disabled=error is not None):
        _confirm_profile(profile, int(seed), rates)


def _edited_rates() -> Json:
    share = st.column_config.NumberColumn(min_value=0.0, max_value=1.0, step=0.01, format="%.2f")
    mean = st.column_config.NumberColumn("slow mean ms", min_value=1, max_value=60_000, step=1, format="%d")
    columns = {name: mean if name == "slow_mean_ms" else share for name in RATES}
    st.caption("Shares of the gateway calls, 0 to 1. An empty row has the rates of all other steps.")
    edited = st.data_editor(
        rates_table(),
        column_config=columns,
        key="fault-rates",
        placeholder="",
        alt="Shares of gateway calls with a fault, for each step",
    )
    return rates_of(edited)


@st.dialog("Apply fault profile", icon=":material/bolt:")
def _confirm_profile(profile: str, seed: int, rates: Json | None) -> None:
    st.markdown(f"Apply **{profile}** (seed {seed})? It affects the next gateway call of every order.")
    text = rates_text(rates or {"default": vars(PROFILES[profile]), "steps": {}})
    st.caption(plain_text.markdown(text))
    if runs := running_load_tests.processes().running():
        st.warning(
            f"Load test {plain_text.markdown(runs[0])} is in progress. If it has set a profile, it does not "
            "restore the former one at its end.",
            icon=":material/warning:",
        )
    if st.button("Apply", type="primary", on_click=_apply, args=(profile, seed, rates)):
        st.rerun()


def _apply(profile: str, seed: int, rates: Json | None) -> None:
    api = clients.api()
    page.run_action(
        RESULT_KEY,
        lambda: api.set_faults(profile, seed, rates),
        f"Applied fault profile {profile} (seed {seed}).",
    )
    cached(latency.active_faults).clear()


def _component_controls() -> None:
    names = [each.name for each in local_stack.processes()] if local_stack.serves_the_api() else []
    if not names:
        st.caption("Only a dashboard on the machine of the stack can kill or pause components.")
        return
    left, right = st.columns([3, 2])
    component = left.selectbox("Component", names, key="disturbed-component")
    seconds = right.number_input(
        "Pause for (s)", min_value=1, max_value=MAX_PAUSE_SECONDS, value=PAUSE_SECONDS, key="pause-seconds"
    )
    with st.container(horizontal=True):
        for verb, icon in _ICONS.items():
            if st.button(verb.capitalize(), key=f"disturb-{verb}", icon=icon):
                confirm_disturbance(verb, component, int(seconds))


@st.dialog("Disturb a component", icon=":material/bolt:")
def confirm_disturbance(verb: str, component: str, seconds: int = PAUSE_SECONDS) -> None:
    """Ask for a confirmation, then make the disturbance."""
    name = plain_text.markdown(component)
    st.markdown(f"{verb.capitalize()} **{name}**? {_CONSEQUENCES[verb].format(seconds=seconds)}")
    if component == "dashboard" and verb != "resume":
        st.caption("This page does not respond meanwhile. It connects again automatically.")
    if st.button(
        f"{verb.capitalize()} {name}", type="primary", on_click=_disturb, args=(verb, component, seconds)
    ):
        st.rerun()


def _disturb(verb: str, component: str, seconds: int) -> None:
    def action() -> None:
        running_load_tests.require_role(Role.CHAOS)
        runs = running_load_tests.processes().running()
        disturbances.disturb(
            clients.settings(), verb, component, pause_seconds=seconds, run_id=runs[0] if runs else None
        )

    done = {"kill": "Killed", "pause": "Paused", "resume": "Resumed"}[verb]
    duration = f" for {seconds} s" if verb == "pause" else ""
    page.run_action(RESULT_KEY, action, f"{done} {plain_text.markdown(component)}{duration}.")
    local_stack.processes.clear()
