"""The form that starts a load test, with options of `python -m loadtest run`."""

import streamlit as st

from dashboard.page_elements import sentence
from dashboard.sections import running_load_tests
from loadtest.options import OPTIONS
from orchestrator.errors import OrderSystemError

FIELDS = (
    "scenario", "arrivals", "rate", "duration", "stages", "faults", "execution", "seed", "chaos",
    "slo_target", "run_id",
)  # fmt: skip
DEFAULTS = {"rate": "3", "duration": "30s", "slo_target": "0.95"}
"""A short run. If none of its 90 orders is late, the target is met."""


def show() -> None:
    """Show the form. Invalid options are reported below it."""
    with st.expander("Start a load test", icon=":material/play_circle:"), st.form("loadtest", border=False):
        with st.grid(4, min_column_width=200):
            values = {name: _field(name) for name in FIELDS}
        is_submitted = st.form_submit_button("Start", type="primary", icon=":material/play_arrow:")
    if not is_submitted:
        return
    try:
        running_load_tests.start(values)
    except OrderSystemError as error:
        st.error(sentence(error), icon=":material/error:")


def _field(name: str) -> str:
    option = OPTIONS[name]
    if option.choices:
        index = option.choices.index(option.default)
        return st.selectbox(option.label, option.choices, index=index, help=option.help)
    return st.text_input(option.label, DEFAULTS.get(name, option.default), help=option.help).strip()
