"""The load tests under way: those that this dashboard has started, how they ended, and those of others."""

from datetime import datetime

import streamlit as st

from dashboard.data import clients
from dashboard.data.load_test_processes import LoadRunner
from db.database import Row
from db.read_models import stored_runs
from db.runs import SILENT_SECONDS
from loadtest.options import RunOptions
from orchestrator.errors import NotAllowed, UsageError
from orchestrator.security.key_hashing import Role

WRONG_USAGE = 2
_WATCHED = "watched-run"
WANTED = "wanted-run"
"""Session state: the run whose verdict the viewer has asked for, before it is chosen."""


@st.cache_resource
def runner() -> LoadRunner:
    return LoadRunner(clients.settings())


def start(given: dict[str, str]) -> None:
    """Starts a run with this viewer's key, who is told when it has ended. Raises NotAllowed, DatabaseUnavailable,
    UsageError beside a run of somebody else, or what `LoadRunner.start` does."""
    must_be(RunOptions.parse(given).required_role)
    for row in stored_runs.under_way(clients.reader()):
        if seems_alive(row, clients.now()):
            raise UsageError(f"the run {row['run_id']} is under way; wait for its verdict or stop it")
    st.session_state[_WATCHED] = runner().start(given, clients.viewer_key())


def seems_alive(row: Row, now: datetime) -> bool:
    """Whether a run without an end is under way, wherever its process is, and not broken off: it has begun or
    started an order a moment ago, or may still be draining or judging itself. Rows as of
    `db.read_models.stored_runs.under_way`."""
    last_sign = max(row["started_at"], row["last_accepted_at"] or row["started_at"])
    silent = (now - last_sign).total_seconds()
    return bool(silent <= row["options"]["drain_seconds"] + SILENT_SECONDS)


def stop(run_id: str) -> None:
    """Stops a run. Raises NotAllowed, or what `LoadRunner.stop` does."""
    must_be(Role.OPERATOR)
    runner().stop(run_id)


def must_be(needed: Role) -> None:
    """Raises NotAllowed unless this viewer's key is good for it; a run is a process of this machine, not only
    a client of the API."""
    role = clients.api().role()
    if role < needed:
        raise NotAllowed(f"this needs a key of role {needed.word}; yours is {role.word}")


def tell_of_endings() -> None:
    """What a run that this viewer started has printed, once it has ended."""
    run_id = st.session_state.get(_WATCHED)
    code = runner().exit_code(run_id) if run_id else None
    if run_id is None or code is None:
        return
    words = runner().last_words(run_id)
    ended = f"The run has ended with exit code {code}."
    if code == 0:
        st.success(ended, icon=":material/check_circle:")
    elif code == WRONG_USAGE:
        st.error("The run did not start:", icon=":material/error:")
    else:
        st.warning(ended, icon=":material/report:")
    # As code, so that nothing in it is read as markup.
    st.code(words or "It said nothing.", language=None, wrap_lines=True)
    started = code != WRONG_USAGE
    if st.button("Show its verdict" if started else "Close", key="ending-seen"):
        del st.session_state[_WATCHED]
        if started:
            st.session_state[WANTED] = run_id
        # The verdict is shown in another part of the page than this one.
        st.rerun()


def choose_wanted() -> None:
    """Puts the run whose verdict was asked for into the page's choice. To be called before that is drawn,
    since a widget takes no new value afterwards."""
    if WANTED in st.session_state:
        st.session_state["run"] = st.session_state.pop(WANTED)
