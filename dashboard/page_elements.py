"""Elements that all pages share: header, live fragments, error boundary, action results, empty states."""

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

REFRESH_SECONDS = 2.0
RESULT_VISIBLE = timedelta(seconds=8)
CHART_CONFIG = {"displaylogo": False, "displayModeBar": "hover", "scrollZoom": False}

_LAST_RESULT = "last-action-result"

_STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding-top: 4.2rem; padding-bottom: 3rem; }
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"] { padding-left: 0.8rem; padding-right: 0.8rem; }
}
[data-stale="true"] { opacity: 1 !important; }
[data-testid="stStatusWidget"] { visibility: hidden; }
[data-testid="stLayoutWrapper"]:has(> [class*="st-key-action-result-"]) {
  position: fixed; top: 4.5rem; right: 1rem; z-index: 1000070; width: min(26rem, calc(100vw - 2rem));
  border-radius: 0.6rem; backdrop-filter: blur(1rem); pointer-events: none;
  animation: action-result-expired 0s RESULT_VISIBLE forwards;
}
@keyframes action-result-expired { to { visibility: hidden; } }
</style>""".replace("RESULT_VISIBLE", f"{RESULT_VISIBLE.total_seconds():g}s")
"""CSS overrides: less top padding, no fading of stale elements, and action results as an overlay. The browser
hides a result after RESULT_VISIBLE, because a page that is not live has no refresh that would remove it."""


class ActionResult(NamedTuple):
    place: str
    is_accepted: bool
    text: str
    icon: str
    at: datetime


def palette() -> Palette:
    """Return the colours of the viewer's theme."""
    return palette_of(st.context.theme.type)


def page_header(title: str, *, live: bool) -> bool:
    """Draw the title and, with `live`, a switch. Return whether the page refreshes automatically."""
    st.html(_STYLE)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.title(title, anchor=False, width="content")
        if not live:
            return False
        return st.toggle("Live", value=True, key="live", help="Refresh this page automatically.")


def live_fragment(
    body: Callable[[], None],
    is_live: bool,
    *,
    every: float = REFRESH_SECONDS,
    results_of: str | None = None,
) -> None:
    """Draw `body` as a fragment that refreshes every `every` seconds while the page is live.

    `results_of` also shows the result of the last `run_action` of this place, even when `body` fails.
    """
    # Streamlit identifies a fragment by its function's name, which a partial lacks.
    function = body.func if isinstance(body, partial) else body

    def guarded() -> None:
        with error_boundary(function.__name__):
            body()
        if results_of is not None:
            _show_result(results_of)

    guarded.__qualname__ = f"{function.__module__}.{function.__qualname__}"
    st.fragment(guarded, run_every=every if is_live else None)()


@contextmanager
def error_boundary(place: str) -> Iterator[None]:
    """Show an OrderSystemError as one sentence with a retry button."""
    try:
        yield
    except OrderSystemError as error:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.error(sentence(error), icon=":material/cloud_off:", width="stretch")
            st.button("Retry", key=f"retry-{place}", icon=":material/refresh:")


def sentence(error: OrderSystemError) -> str:
    """Return the error's message as an escaped Markdown sentence."""
    text = str(error)
    text = text[:1].upper() + text[1:]
    return plain_text.markdown(text if text.endswith((".", "!", "?")) else text + ".")


def run_action(place: str, action: Callable[[], object], success: str) -> None:
    """Run an action of the viewer and keep its result for the `live_fragment` of this place.

    Call it from a callback: a callback also runs when the refreshed page no longer has the button.
    """
    is_accepted, text, icon = True, success, ":material/check_circle:"
    try:
        action()
    except RequestRejected as error:
        is_accepted, text, icon = False, sentence(error), ":material/block:"
    except OrderSystemError as error:
        is_accepted, text, icon = False, sentence(error), ":material/cloud_off:"
    st.session_state[_LAST_RESULT] = ActionResult(place, is_accepted, text, icon, clients.now())


def _show_result(place: str) -> None:
    # Not a toast: Streamlit sends a toast once, and a rerun before it is drawn loses it.
    result: ActionResult | None = st.session_state.get(_LAST_RESULT)
    if result is None or result.place != place or clients.now() - result.at >= RESULT_VISIBLE:
        return
    # A new key restarts the CSS animation that hides the result.
    with st.container(key=f"action-result-{result.at:%H%M%S%f}"):
        show = st.success if result.is_accepted else st.error
        show(result.text, icon=result.icon)


def select(
    label: str,
    key: str,
    options: list[str],
    *,
    placeholder: str = "any",
    accept_new_options: bool = False,
    on_change: Callable[[], None] | None = None,
) -> str | None:
    """Draw a select box that may be empty and whose value is part of the URL."""
    selected: str | None = st.selectbox(
        label,
        options,
        index=None,
        key=key,
        bind="query-params",
        placeholder=placeholder,
        accept_new_options=accept_new_options,
        on_change=on_change,
    )
    return selected


def empty_state(title: str, next_step: str) -> None:
    """Draw a box that says what is missing and what the viewer can do about it."""
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown(f"**{title}**", width="content")
        st.caption(next_step, width="content")
