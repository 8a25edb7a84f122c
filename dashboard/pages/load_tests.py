"""Load tests: start one, watch it, stop it; every stored run with its verdict; two runs side by side."""

from functools import partial

import streamlit as st

from dashboard import plain_text
from dashboard.charts import distribution
from dashboard.data import clients
from dashboard.data import live_data as readings
from dashboard.layout import CHART_CONFIG, answered, failures_told, head, nothing_yet, palette, refreshing
from dashboard.sections import running_load_tests, start_load_test
from dashboard.sections.run_comparison import EndedRun, side_by_side
from dashboard.view_models import runs
from db.database import Row
from loadtest.verdict.verdict_rows import verdict_rows

SHELF_ROWS = 100
_SHOWN = "shelf-rows"
_UNDER_WAY = "runs-under-way"

is_live = head("Load tests", live=True)
limit_ms = round(clients.settings().order_deadline_seconds * 1000)
locust_page = clients.settings().near_url("locust")


def choose(rows: list[Row]) -> tuple[str | None, str | None]:
    """The run to look at, and the one to put beside it: one of the newest, or any that is typed or linked."""
    running_load_tests.choose_wanted()
    names = [row["run_id"] for row in rows]

    def choice(label: str, key: str, placeholder: str) -> str | None:
        chosen: str | None = st.selectbox(
            label,
            names,
            index=None,
            key=key,
            bind="query-params",
            placeholder=placeholder,
            accept_new_options=True,
        )
        return chosen

    left, right = st.columns(2)
    with left:
        one = choice("Run", "run", "choose one, or type its id")
    with right:
        other = choice("Beside", "beside", "none")
    return one, other


def stored(one: str | None, other: str | None) -> None:
    """The runs that are chosen, and the table of all."""
    shown = st.session_state.get(_SHOWN, SHELF_ROWS)
    rows = readings.stored_runs(shown)
    if not rows:
        nothing_yet("No load test yet", "Start one above; mixed at 3 a second for 30 s is a good first one.")
        return
    if one:
        _one_run(one)
    if one and other and one != other:
        _side_by_side(one, other)
    _shelf(rows)
    if len(rows) == shown:
        st.button("Older runs", icon=":material/expand_more:", on_click=_show_older)


def _show_older() -> None:
    st.session_state[_SHOWN] = st.session_state.get(_SHOWN, SHELF_ROWS) + SHELF_ROWS


def _shelf(rows: list[Row]) -> None:
    st.dataframe(
        runs.shelf(rows),
        hide_index=True,
        placeholder="",
        key="shelf",
        column_config={
            "started": st.column_config.DatetimeColumn("started (UTC)", format="YYYY-MM-DD HH:mm:ss"),
            "rate": st.column_config.NumberColumn("orders / s", format="%.2f"),
            "p99 s": st.column_config.NumberColumn("p99", format="%.3f s"),
        },
    )


def _one_run(run_id: str) -> None:
    row = readings.stored_run(run_id)
    if row is None:
        nothing_yet(f"There is no run {plain_text.markdown(run_id)}", "Choose one from the list.")
        return
    told = row["verdict"]
    with st.container(border=True):
        if told is None:
            st.markdown(
                f"**{plain_text.markdown(run_id)}** has no verdict: it is under way, or was broken off."
            )
        else:
            passed = told["exit_code"] == 0
            st.badge(
                told["verdict"],
                icon=":material/check_circle:" if passed else ":material/error:",
                color="green" if passed else "red",
            )
            for line in verdict_rows(told):
                st.markdown(f"**{plain_text.markdown(line.label)}**  {plain_text.markdown(line.value)}")
        with st.container(horizontal=True):
            st.link_button("Its latency", f"latency?run={run_id}", icon=":material/timer:")
            st.link_button("Its audit", f"audit?run={run_id}", icon=":material/fact_check:")
            for file in running_load_tests.runner().reports(run_id):
                st.download_button(
                    file.name,
                    data=file.read_bytes,
                    file_name=f"{run_id}-{file.name}",
                    key=f"report-{file.name}",
                    on_click="ignore",
                    icon=":material/download:",
                )


def _side_by_side(one: str, other: str) -> None:
    found = None
    row, row_beside = readings.stored_run(one), readings.stored_run(other)
    if row and row_beside and row["ended_at"] and row_beside["ended_at"]:
        found = side_by_side(EndedRun(one, row["ended_at"]), EndedRun(other, row_beside["ended_at"]))
    if found is None:
        nothing_yet("Nothing to compare yet", "Both runs need a verdict and a finished order.")
        return
    comparison = found.compared
    st.subheader("Side by side", anchor=False)
    st.markdown(
        f"**{plain_text.markdown(one)}** against {plain_text.markdown(other)}: **{comparison['verdict']}**"
    )
    curves = {plain_text.chart(one): found.curve, plain_text.chart(other): found.curve_beside}
    st.plotly_chart(
        distribution.ecdf(curves, palette(), limit_ms),
        key="compare",
        config=CHART_CONFIG,
        alt="Share of the orders of both runs that took at most so long",
    )
    st.dataframe(runs.differences(comparison), hide_index=True, key="differences")


def under_way() -> None:
    """The runs under way, whoever started them: how far each is, how it stands, and how to stop it."""
    living = running_load_tests.runner().running()
    for row in readings.runs_under_way():
        is_stoppable = row["run_id"] in living
        if is_stoppable:
            living.remove(row["run_id"])
        if is_stoppable or running_load_tests.seems_alive(row, clients.now()):
            _progress(row, is_stoppable=is_stoppable)
    for run_id in living:
        st.info(f"{plain_text.markdown(run_id)} is starting.", icon=":material/hourglass_top:")
    running_load_tests.tell_of_endings()


def _progress(row: Row, *, is_stoppable: bool) -> None:
    run_id = row["run_id"]
    seconds = sum(stage["seconds"] for stage in row["options"]["stages"])
    elapsed = (clients.now() - row["started_at"]).total_seconds()
    with st.container(border=True):
        st.markdown(f"**{plain_text.markdown(run_id)}**, {plain_text.markdown(row['scenario'])}")
        phase = f"{elapsed:.0f} s of {seconds:.0f} s" if elapsed < seconds else "draining, then the verdict"
        st.progress(min(elapsed / seconds, 1.0), text=phase)
        with st.grid(4, min_column_width=130):
            for label in ("accepted", "in_flight", "finished", "late"):
                st.metric(label.replace("_", " ").capitalize(), f"{row[label]:,}", border=True)
        if not is_stoppable:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.caption(
                    "Not a process that this dashboard can stop: stop it where it was started, on Locust's "
                    "page, in a shell or on another machine."
                )
                st.link_button("Locust's page", locust_page, icon=":material/open_in_new:")
        else:
            st.button(
                "Stop", key=f"stop-{run_id}", icon=":material/stop_circle:", on_click=_stop, args=(run_id,)
            )


def _stop(run_id: str) -> None:
    answered(_UNDER_WAY, lambda: running_load_tests.stop(run_id), "It drains, then it is judged.")


with failures_told("load-tests-form"):
    start_load_test.show()
refreshing(under_way, is_live, answers_of=_UNDER_WAY)
with failures_told("load-tests-runs"):
    st.subheader("Stored runs", anchor=False)
    # Drawn also while there is no run: Streamlit puts what the page itself chooses into the address only for
    # a widget that was there before.
    chosen, beside = choose(readings.stored_runs(st.session_state.get(_SHOWN, SHELF_ROWS)))
    refreshing(partial(stored, chosen, beside), is_live, every=5.0)
