"""Load tests: start one, watch it, stop it; every stored run with its verdict; two runs side by side."""

from functools import partial

import streamlit as st

from dashboard import plain_text, sources
from dashboard.figures import distribution, runs
from dashboard.layout import CHART_CONFIG, answered, failures_told, head, nothing_yet, palette, refreshing
from dashboard.load_tests import running, start_form
from db import run_shelf
from db.pool import Row
from loadtest.wording import facts

TABLE_HEIGHT = 320

is_live = head("Load tests", live=True)
limit_ms = round(sources.settings().order_deadline_seconds * 1000)


def choose(rows: list[Row]) -> tuple[str | None, str | None]:
    """The run to look at, and the one to put beside it."""
    running.choose_wanted()
    names = [row["run_id"] for row in rows]
    left, right = st.columns(2)
    return (
        left.selectbox("Run", names, index=None, key="run", bind="query-params", placeholder="choose one"),
        right.selectbox("Beside", names, index=None, key="beside", bind="query-params", placeholder="none"),
    )


def stored(one: str | None, other: str | None) -> None:
    """The runs that are chosen, and the table of all."""
    if one:
        _one_run(one)
    if one and other and one != other:
        _side_by_side(one, other)
    _shelf(run_shelf.shelf(sources.reader()))


def _shelf(rows: list[Row]) -> None:
    st.dataframe(
        runs.shelf(rows),
        height=TABLE_HEIGHT,
        hide_index=True,
        key="shelf",
        column_config={
            "started": st.column_config.DatetimeColumn("started (UTC)", format="YYYY-MM-DD HH:mm:ss"),
            "rate": st.column_config.NumberColumn("orders / s", format="%.2f"),
            "p99 s": st.column_config.NumberColumn("p99", format="%.3f s"),
        },
    )


def _one_run(run_id: str) -> None:
    row = run_shelf.verdict(sources.reader(), run_id)
    if row is None:
        nothing_yet("There is no such run", "Choose one from the list.")
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
            for subject, fact in facts(told).items():
                st.markdown(f"**{plain_text.markdown(subject)}**  {plain_text.markdown(fact)}")
        with st.container(horizontal=True):
            st.link_button("Its latency", f"latency?run={run_id}", icon=":material/timer:")
            st.link_button("Its audit", f"audit?run={run_id}", icon=":material/fact_check:")
            for file in running.runner().reports(run_id):
                st.download_button(
                    file.name,
                    data=file.read_bytes,
                    file_name=f"{run_id}-{file.name}",
                    key=f"report-{file.name}",
                    on_click="ignore",
                    icon=":material/download:",
                )


def _side_by_side(one: str, other: str) -> None:
    times, beside = (run_shelf.times(sources.reader(), run_id) for run_id in (one, other))
    if times is None or beside is None or not times.completion_ms or not beside.completion_ms:
        nothing_yet("Nothing to compare yet", "Both runs need a verdict and a finished order.")
        return
    comparison = runs.compared(times, beside)
    st.subheader("Side by side", anchor=False)
    st.markdown(
        f"**{plain_text.markdown(one)}** against {plain_text.markdown(other)}: **{comparison['verdict']}**"
    )
    curves = {plain_text.chart(one): runs.curve(times), plain_text.chart(other): runs.curve(beside)}
    st.plotly_chart(
        distribution.ecdf(curves, palette(), limit_ms),
        key="compare",
        config=CHART_CONFIG,
        alt="Share of the orders of both runs that took at most so long",
    )
    st.dataframe(runs.differences(comparison), hide_index=True, key="differences")


def under_way() -> None:
    """The run under way: how far it is, how it stands, and a button to stop it."""
    living = running.runner().running()
    for row in run_shelf.under_way(sources.reader()):
        if row["run_id"] in living:
            _progress(row)
            living.remove(row["run_id"])
    for run_id in living:
        st.info(f"{plain_text.markdown(run_id)} is starting.", icon=":material/hourglass_top:")
    running.tell_of_endings()


def _progress(row: Row) -> None:
    run_id = row["run_id"]
    seconds = sum(stage["seconds"] for stage in row["options"]["stages"])
    elapsed = (sources.now() - row["started_at"]).total_seconds()
    with st.container(border=True):
        st.markdown(f"**{plain_text.markdown(run_id)}**, {plain_text.markdown(row['scenario'])}")
        phase = f"{elapsed:.0f} s of {seconds:.0f} s" if elapsed < seconds else "draining, then the verdict"
        st.progress(min(elapsed / seconds, 1.0), text=phase)
        with st.grid(4, min_column_width=130):
            for label in ("accepted", "in_flight", "finished", "late"):
                st.metric(label.replace("_", " ").capitalize(), f"{row[label]:,}", border=True)
        if st.button("Stop", key=f"stop-{run_id}", icon=":material/stop_circle:"):
            answered(lambda: running.stop(run_id), "It drains, then it is judged.")


with failures_told("load-tests-form"):
    start_form.show()
refreshing(under_way, is_live)
with failures_told("load-tests-runs"):
    st.subheader("Stored runs", anchor=False)
    rows = run_shelf.shelf(sources.reader())
    if rows:
        chosen, beside = choose(rows)
        refreshing(partial(stored, chosen, beside), is_live, every=5.0)
    else:
        nothing_yet("No load test yet", "Start one above; mixed at 3 a second for 30 s is a good first one.")
