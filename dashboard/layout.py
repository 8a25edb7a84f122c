"""What the pages have in common: their head, their live part, and how a failure is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import streamlit as st

from dashboard import plain_text, sources
from dashboard.figures.palette import Palette, palette_of
from orchestrator.errors import OrderSystemError, RequestRefused

JUST_ANSWERED = "just-answered"
"""Session state: an answer is on its way to the viewer, which a rerun of the whole page would swallow."""

CHART_CONFIG = {"displaylogo": False, "displayModeBar": "hover", "scrollZoom": False}


def palette() -> Palette:
    """The colours of the theme that this viewer has chosen."""
    return palette_of(st.context.theme.type)


_ROOM = """<style>
[data-testid="stMainBlockContainer"] { padding-top: 4.2rem; padding-bottom: 3rem; }
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"] { padding-left: 0.8rem; padding-right: 0.8rem; }
}
[data-stale="true"] { opacity: 1 !important; }
[data-testid="stStatusWidget"] { visibility: hidden; }
</style>"""
"""Less white above the title, and nothing that fades or runs about while a page is read again."""


def head(title: str, *, live: bool) -> bool:
    """The page's title; with `live`, a switch beside it. Returns whether the page refreshes by itself."""
    st.html(_ROOM)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.title(title, anchor=False, width="content")
        if not live:
            return False
        return st.toggle(
            "Live", value=True, key="live", help="Off: the page stands still until you turn it on."
        )


def refreshing(body: Callable[[], None], is_live: bool, *, every: float = sources.TICK_SECONDS) -> None:
    """Shows `body`, and again at every tick while the page is live. The rest of the page stays."""
    # A partial has no name; a fragment is told apart by the name of what it shows.
    shown = body.func if isinstance(body, partial) else body

    def guarded() -> None:
        with failures_told(shown.__name__):
            body()

    guarded.__qualname__ = f"{shown.__module__}.{shown.__qualname__}"
    st.fragment(guarded, run_every=every if is_live else None)()


@contextmanager
def failures_told(place: str) -> Iterator[None]:
    """One sentence and a button to try again, instead of what could not be shown."""
    try:
        yield
    except OrderSystemError as error:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.error(sentence(error), icon=":material/cloud_off:", width="stretch")
            st.button("Try again", key=f"retry-{place}", icon=":material/refresh:")


def sentence(error: OrderSystemError) -> str:
    """What went wrong, as a sentence for Markdown; it may quote what a user typed."""
    text = str(error)
    text = text[:1].upper() + text[1:]
    return plain_text.markdown(text if text.endswith((".", "!", "?")) else text + ".")


def answered(request: Callable[[], object], accepted: str) -> bool:
    """Carries out a request of the viewer and tells how it was answered. Returns whether it was accepted."""
    st.session_state[JUST_ANSWERED] = True
    try:
        request()
    except RequestRefused as error:
        st.toast(sentence(error), icon=":material/block:", duration="long")
        return False
    except OrderSystemError as error:
        st.toast(sentence(error), icon=":material/cloud_off:", duration="long")
        return False
    st.toast(accepted, icon=":material/check_circle:")
    return True


def nothing_yet(what: str, next_step: str) -> None:
    """An empty place says what would stand here and what to do to see it."""
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown(f"**{what}**", width="content")
        st.caption(next_step, width="content")
