"""What the pages have in common: their head, their live part, and how a failure is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import streamlit as st

from dashboard import plain_text
from dashboard.charts.palette import Palette, palette_of
from dashboard.data import clients
from orchestrator.errors import OrderSystemError, RequestRejected

ANSWER_STAYS = timedelta(seconds=8)
"""How long an answer is shown, unless the next one takes its place."""

_LAST_ANSWER = "last-answer"

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
[data-testid="stLayoutWrapper"]:has(> [class*="st-key-answer-"]) {
  position: fixed; top: 4.5rem; right: 1rem; z-index: 1000070; width: min(26rem, calc(100vw - 2rem));
  border-radius: 0.6rem; backdrop-filter: blur(1rem); pointer-events: none;
  animation: answer-is-old 0s ANSWER_STAYS forwards;
}
@keyframes answer-is-old { to { visibility: hidden; } }
</style>""".replace("ANSWER_STAYS", f"{ANSWER_STAYS.total_seconds():g}s")
"""Less white above the title, and nothing that fades or runs about while a page is read again. An answer lies
over the page and its open forms, so that it is seen however far down the viewer is and moves no button away;
and since a page that stands still has no tick to remove it, the browser hides it when its time is over."""


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


class Answer(NamedTuple):
    """How a request of the viewer was answered."""

    place: str
    is_accepted: bool
    text: str
    icon: str
    at: datetime


def refreshing(
    body: Callable[[], None],
    is_live: bool,
    *,
    every: float = clients.TICK_SECONDS,
    answers_of: str | None = None,
) -> None:
    """Shows `body`, and again at every tick while the page is live. The rest of the page stays. With
    `answers_of`, what was `answered` at this place is shown too, even when the body cannot be."""
    # A partial has no name; a fragment is told apart by the name of what it shows.
    shown = body.func if isinstance(body, partial) else body

    def guarded() -> None:
        with failures_told(shown.__name__):
            body()
        if answers_of is not None:
            _tell_answer(answers_of)

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


def answered(place: str, request: Callable[[], object], accepted: str) -> None:
    """Carries out a request of the viewer and keeps how it was answered, for `refreshing` to show. To be
    called from a callback, which runs even when the page, drawn anew, has no button for it any more: it is
    just then that the viewer must hear that it was too late."""
    is_accepted, text, icon = True, accepted, ":material/check_circle:"
    try:
        request()
    except RequestRejected as error:
        is_accepted, text, icon = False, sentence(error), ":material/block:"
    except OrderSystemError as error:
        is_accepted, text, icon = False, sentence(error), ":material/cloud_off:"
    st.session_state[_LAST_ANSWER] = Answer(place, is_accepted, text, icon, clients.now())


def _tell_answer(place: str) -> None:
    # Not as a toast: the browser is sent a toast once, and never shows it when the next run, of a tick or of
    # the whole page, follows before it is drawn.
    answer: Answer | None = st.session_state.get(_LAST_ANSWER)
    if answer is None or answer.place != place or clients.now() - answer.at >= ANSWER_STAYS:
        return
    # A key of its own, so that the browser counts the time of each answer anew.
    with st.container(key=f"answer-{answer.at:%H%M%S%f}"):
        tell = st.success if answer.is_accepted else st.error
        tell(answer.text, icon=answer.icon)


def nothing_yet(what: str, next_step: str) -> None:
    """An empty place says what would stand here and what to do to see it."""
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown(f"**{what}**", width="content")
        st.caption(next_step, width="content")
