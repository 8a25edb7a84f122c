"""The form that starts a load test, with all options of `python -m loadtest run`."""

from typing import Any

import streamlit as st

from dashboard.data.cached import cached
from dashboard.page_elements import sentence
from dashboard.sections import running_load_tests
from db.read_models import stored_runs
from db.read_models.stored_runs import LISTED_RUNS
from loadtest.charts import plain_text
from loadtest.options import OPTIONS, LoadTestOption, OptionsRejected
from orchestrator.errors import OrderSystemError

FIELDS = ("scenario", "arrivals", "rate", "duration", "faults", "chaos", "slo_target", "run_id")
ADVANCED_FIELDS = tuple(name for name in OPTIONS if name not in FIELDS)
DEFAULTS = {"rate": "3", "duration": "30s", "slo_target": "0.95"}
"""A short run. If none of its 90 orders is late, the target is met."""

_PROBLEMS = "load-test-problems"
_ERROR = "load-test-error"
"""Session state: the problems of the last start, by option name, and its other error."""


def show() -> None:
    """Show the form. The problem of an option is shown below its field."""
    problems = st.session_state.get(_PROBLEMS, {})
    with st.expander("Start a load test", icon=":material/play_circle:"), st.form("loadtest", border=False):
        _fields(FIELDS, problems)
        has_advanced_problem = not problems.keys().isdisjoint(ADVANCED_FIELDS)
        with st.expander("Advanced options", icon=":material/tune:", expanded=has_advanced_problem):
            _fields(ADVANCED_FIELDS, problems)
        st.form_submit_button("Start", type="primary", icon=":material/play_arrow:", on_click=_start)
        if error := st.session_state.get(_ERROR):
            st.error(error, icon=":material/error:")


def _fields(names: tuple[str, ...], problems: dict[str, str]) -> None:
    with st.grid(4, min_column_width=200):
        for name in names:
            with st.container(gap="xxsmall"):
                _field(OPTIONS[name])
                if name in problems:
                    st.markdown(f":red[:material/error: {plain_text.markdown(problems[name])}]")


def _field(option: LoadTestOption) -> None:
    shared: dict[str, Any] = {"help": option.help, "key": _key(option.name)}
    default = DEFAULTS.get(option.name, option.default)
    if option.is_flag:
        st.checkbox(option.label, **shared)
    elif option.choices:
        st.selectbox(option.label, option.choices, index=option.choices.index(option.default), **shared)
    elif option.name == "compare":
        runs = [row["run_id"] for row in cached(stored_runs.newest_runs)(LISTED_RUNS)]
        st.selectbox(option.label, runs, index=None, placeholder="none", accept_new_options=True, **shared)
    else:
        st.text_input(option.label, default, **shared)


def _key(name: str) -> str:
    return f"load-test-{name}"


def _start() -> None:
    # A callback runs before the form is drawn again, so each problem is drawn at its field.
    st.session_state[_PROBLEMS], st.session_state[_ERROR] = {}, None
    given = {name: st.session_state[_key(name)] for name in OPTIONS}
    values = {name: value.strip() if isinstance(value, str) else value for name, value in given.items()}
    try:
        running_load_tests.start(values)
    except OptionsRejected as error:
        st.session_state[_PROBLEMS] = error.problems
    except OrderSystemError as error:
        st.session_state[_ERROR] = sentence(error)
