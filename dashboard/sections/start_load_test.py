"""The form that starts a load test, with the options of `python -m loadtest run`."""

import streamlit as st

from dashboard.layout import sentence
from dashboard.sections import running_load_tests
from loadtest.options import FAULT_PROFILES, Arrivals, Scenario
from orchestrator.errors import OrderSystemError


def show() -> None:
    """The form; what is wrong with it is said below."""
    with st.expander("Start a load test", icon=":material/play_circle:"), st.form("loadtest", border=False):
        with st.grid(4, min_column_width=200):
            given = {
                "scenario": st.selectbox("Scenario", [each.value for each in Scenario]),
                "arrivals": st.selectbox("Arrivals", [each.value for each in Arrivals]),
                "rate": st.text_input("Orders a second", "3"),
                "duration": st.text_input("Duration", "30s"),
                "stages": st.text_input("Or stages", placeholder="30s@2,60s@10,30s@2"),
                "faults": st.selectbox(
                    "Faults", ["", *FAULT_PROFILES], format_func=lambda name: name or "as they are"
                ),
                "seed": st.text_input("Seed", "1"),
                "chaos": st.text_input("Chaos", placeholder="20s kill order-worker"),
                "slo-target": st.text_input("Target", "0.95"),
                "run-id": st.text_input("Run id", placeholder="made from the time"),
            }
        is_wanted = st.form_submit_button("Start", type="primary", icon=":material/play_arrow:")
    if not is_wanted:
        return
    try:
        running_load_tests.start({name: value.strip() for name, value in given.items()})
    except OrderSystemError as error:
        st.error(sentence(error), icon=":material/error:")
