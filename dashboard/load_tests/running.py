"""The load tests that this dashboard has started, and how they ended."""

import streamlit as st

from dashboard import sources
from dashboard.load_runner import LoadRunner, meant
from orchestrator.errors import NotAllowed
from orchestrator.keys import Role

WRONG_USAGE = 2
_WATCHED = "watched-run"
_WANTED = "wanted-run"


@st.cache_resource
def runner() -> LoadRunner:
    return LoadRunner(sources.settings())


def start(given: dict[str, str]) -> None:
    """Starts a run with this viewer's key, who is told when it has ended. Raises NotAllowed, or what
    `LoadRunner.start` does."""
    # What cannot be meant is said at once, whoever asks.
    meant(given)
    must_be(Role.CHAOS if given.get("faults") or given.get("chaos") else Role.OPERATOR)
    st.session_state[_WATCHED] = runner().start(given, sources.viewer_key())


def stop(run_id: str) -> None:
    """Stops a run. Raises NotAllowed, or what `LoadRunner.stop` does."""
    must_be(Role.OPERATOR)
    runner().stop(run_id)


def must_be(needed: Role) -> None:
    """Raises NotAllowed unless this viewer's key is good for it; a run is a process of this machine, not only
    a client of the API."""
    role = sources.api().role()
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
            st.session_state[_WANTED] = run_id
        # The verdict is shown in another part of the page than this one.
        st.rerun()


def choose_wanted() -> None:
    """Puts the run whose verdict was asked for into the page's choice. To be called before that is drawn,
    since a widget takes no new value afterwards."""
    if _WANTED in st.session_state:
        st.session_state["run"] = st.session_state.pop(_WANTED)
