"""Load tests in progress, and the result of the run that the user started."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import cached
from dashboard.data.load_test_processes import LoadTestProcesses
from dashboard.page_elements import DOUBLE_CLICK, page_link, replace_query, run_action
from db.database import Row
from db.read_models import stored_runs
from db.runs import SILENT_SECONDS
from loadtest.charts import plain_text
from loadtest.options import RunOptions
from orchestrator.errors import ExitCode, NotAllowed, UsageError
from orchestrator.security.key_hashing import Role

RESULT_KEY = "running-load-tests"
_STARTED_RUN = "started-run"
_CLICKED = "clicked-run"
"""Session state: the run to open."""


@dataclass
class StartedRun:
    """Session state: the run that the user started last, until its result is dismissed."""

    run_id: str | None = None
    at: datetime | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource
def processes() -> LoadTestProcesses:
    return LoadTestProcesses(clients.settings())


def start(given: dict[str, Any]) -> None:
    """Start a run with the user's key. The second click of a double click starts none.

    Raises NotAllowed, DatabaseError, or UsageError if a run is in progress on any machine.
    """
    # Read before the start: another click can interrupt this script run at its next access to the session.
    started, local, key = _started_run(), processes(), clients.user_key()
    with started.lock:
        if started.at is not None and clients.now() - started.at < DOUBLE_CLICK:
            return
        require_role(RunOptions.parse(given).required_role)
        for row in stored_runs.running_runs(clients.database()):
            if is_in_progress(row, clients.now()):
                raise UsageError(f"run {row['run_id']} is in progress; wait for its verdict or stop it")
        started.run_id = local.start(given, key)
        started.at = clients.now()


def _started_run() -> StartedRun:
    started: StartedRun = st.session_state.setdefault(_STARTED_RUN, StartedRun())
    return started


def in_progress(rows: Iterable[Row]) -> set[str]:
    """Return the ids of the runs in progress; the other ones without an end were aborted. `rows` come from
    `db.read_models.stored_runs.newest_runs`."""
    local = processes().running()
    return {
        row["run_id"]
        for row in rows
        if row["ended_at"] is None and (row["run_id"] in local or is_in_progress(row, clients.now()))
    }


def is_in_progress(row: Row, now: datetime) -> bool:
    """Return False for an aborted run: it accepted no orders for longer than a running load test can.

    A running load test accepts no orders while it drains and while it computes its verdict. `row` comes from
    `running_runs` or `newest_runs` of `db.read_models.stored_runs`, and has not ended.
    """
    last_activity = max(row["started_at"], row["last_accepted_at"] or row["started_at"])
    idle_seconds = (now - last_activity).total_seconds()
    return bool(idle_seconds <= row["options"]["drain_seconds"] + SILENT_SECONDS)


def stop(run_id: str) -> None:
    """Stop a run. Raises NotAllowed, or OrderSystemError if the run has ended."""
    require_role(Role.OPERATOR)
    processes().stop(run_id)


def require_role(role: Role) -> None:
    """Raise NotAllowed if the user's key lacks this role.

    The API cannot check it, because a run is a local process.
    """
    user_role = clients.api().role()
    if user_role < role:
        raise NotAllowed(f"this requires a key of role {role.word}; your key has role {user_role.word}")


def show() -> None:
    """Draw every run in progress, on any machine, and the result of the run that the user started."""
    local = processes().running()
    for row in cached(stored_runs.running_runs)():
        is_local = row["run_id"] in local
        if is_local:
            local.remove(row["run_id"])
        if is_local or is_in_progress(row, clients.now()):
            with st.container(border=True):
                page_link("load_tests", row["run_id"], run=row["run_id"])
                _show_progress(row, is_local=is_local)
    for run_id in local:
        st.info(f"{plain_text.markdown(run_id)} is starting.", icon=":material/hourglass_top:")
    _show_result()


def show_progress_of(run_id: str) -> None:
    """Draw the progress of one run, if it is in progress."""
    is_local = run_id in processes().running()
    for row in cached(stored_runs.running_runs)():
        if row["run_id"] == run_id and (is_local or is_in_progress(row, clients.now())):
            _show_progress(row, is_local=is_local)


def _show_progress(row: Row, *, is_local: bool) -> None:
    run_id = row["run_id"]
    seconds = sum(stage["seconds"] for stage in row["options"]["stages"])
    elapsed = (clients.now() - row["started_at"]).total_seconds()
    phase = f"{elapsed:.0f} s of {seconds:.0f} s" if elapsed < seconds else "draining, then the verdict"
    st.progress(min(elapsed / seconds, 1.0), text=f"{row['scenario']}: {phase}")
    with st.grid(4, min_column_width=130):
        for column in ("accepted", "in_flight", "finished", "late"):
            st.metric(column.replace("_", " ").capitalize(), f"{row[column]:,}", border=True)
    if is_local:
        st.button("Stop", key=f"stop-{run_id}", icon=":material/stop_circle:", on_click=_stop, args=(run_id,))
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            "This run was not started from this dashboard. Stop it in its shell or in the Locust web UI."
        )
        st.link_button("Locust web UI", clients.settings().local_url("locust"), icon=":material/open_in_new:")


def _stop(run_id: str) -> None:
    success = "Stopping: orders in flight finish first, then the verdict follows."
    run_action(RESULT_KEY, lambda: stop(run_id), success)


def _show_result() -> None:
    started = _started_run()
    run_id = started.run_id
    code = processes().exit_code(run_id) if run_id else None
    if run_id is None or code is None:
        return
    if code == ExitCode.PASSED:
        st.success("The run ended with exit code 0.", icon=":material/check_circle:")
    elif code == ExitCode.WRONG_USAGE:
        st.error("The run did not start:", icon=":material/error:")
    else:
        st.warning(f"The run ended with exit code {code}.", icon=":material/report:")
    # A code block, so that the output is not interpreted as Markdown.
    st.code(processes().output(run_id) or "No output.", language=None, wrap_lines=True)
    has_started = code != ExitCode.WRONG_USAGE
    if st.button("Show verdict" if has_started else "Close", key="close-result"):
        started.run_id = None
        if has_started:
            open_run(run_id)
        st.rerun()


def open_run(run_id: str) -> NoReturn:
    """Open the page of a run."""
    # The filters can be reset only before they are drawn.
    st.session_state[_CLICKED] = run_id
    st.rerun()


def open_clicked_run() -> None:
    """Replace the URL query by the run that the user has just clicked. Call it before the page is drawn."""
    if (run_id := st.session_state.pop(_CLICKED, None)) is not None:
        replace_query("load_tests", run=run_id)
