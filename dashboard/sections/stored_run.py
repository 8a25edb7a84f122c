"""One stored load test: its verdict, its report files, and links to its orders."""

import streamlit as st

from dashboard.data.cached import cached
from dashboard.page_elements import STATUS_STYLE, empty_state, error_boundary
from dashboard.sections import playback, running_load_tests
from db.read_models import stored_runs
from loadtest.charts import plain_text
from loadtest.verdict.schema import schema_problem
from loadtest.verdict.verdict_rows import verdict_rows
from orchestrator.errors import ExitCode

IS_GOOD = {ExitCode.PASSED: True, ExitCode.NOT_PROVEN: None}


def show(run_id: str, *, is_running: bool) -> None:
    row = cached(stored_runs.verdict)(run_id)
    if row is None:
        empty_state(f"Run {plain_text.markdown(run_id)} not found", "Select a run from the list.")
        return
    verdict = row["verdict"]
    with st.container(border=True):
        if verdict is None and is_running:
            st.markdown(f"**{plain_text.markdown(run_id)}** is in progress. Its verdict follows at the end.")
        elif verdict is None:
            how = "was aborted" if row["ended_at"] is None else "ended"
            st.warning(
                f"**{plain_text.markdown(run_id)}** {how} without a verdict. The trend leaves it out.",
                icon=":material/report:",
            )
        elif problem := schema_problem(verdict):
            st.warning(plain_text.markdown(problem), icon=":material/update:")
        else:
            icon, color = STATUS_STYLE[IS_GOOD.get(verdict["exit_code"], False)]
            st.badge(verdict["verdict"], icon=icon, color=color)
            for line in verdict_rows(verdict):
                st.markdown(f"**{plain_text.markdown(line.label)}**  {plain_text.markdown(line.value)}")
        with st.container(horizontal=True):
            st.link_button("Orders", f"orders?run={run_id}", icon=":material/list_alt:")
            st.link_button("Latency", f"latency?run={run_id}", icon=":material/timer:")
            st.link_button("Audit", f"audit?run={run_id}", icon=":material/fact_check:")
            for file in running_load_tests.processes().reports(run_id):
                st.download_button(
                    file.name,
                    data=file.read_bytes,
                    file_name=f"{run_id}-{file.name}",
                    key=f"report-{file.name}",
                    on_click="ignore",
                    icon=":material/download:",
                )
        with error_boundary("playback"):
            playback.show(run_id)
