"""Elements that all pages share: header, live fragments, error boundary, action results, empty states."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import filters, plotly_figure
from dashboard.data import clients
from dashboard.first_screen import draw_later
from loadtest.charts import plain_text
from loadtest.charts.palette import Palette, palette_of
from orchestrator.errors import OrderSystemError, RequestMalformed

REFRESH_SECONDS = 2.0
RESULT_VISIBLE = timedelta(seconds=8)
"""How long an action result is visible. Same as in page_elements.css."""

DOUBLE_CLICK = timedelta(seconds=2)
"""A repetition of an action within this time after its success is the second click of a double click."""

STATUS_STYLE: dict[bool | None, tuple[str, Literal["green", "red", "gray"]]] = {
    True: (":material/check_circle:", "green"),
    False: (":material/error:", "red"),
    None: (":material/hourglass_empty:", "gray"),
}
"""Icon and color of a badge: good, bad, unknown."""

_PAGES = Path(__file__).with_name("pages")
_RESULTS = "action-results"
"""Session state: the last action result by key."""

_VISITED = "visited"
"""Session state: the page that the user saw last, and for the page of a run its id."""


class ActionResult(NamedTuple):
    is_accepted: bool
    text: str
    at: datetime


def palette() -> Palette:
    """Return the colors of the user's theme."""
    return palette_of(st.context.theme.type)


def page_header(title: str, *, live: bool) -> bool:
    """Draw the title and, with `live`, a switch. Return whether the page refreshes automatically."""
    st.html(Path(__file__).with_suffix(".css"))
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.title(title, anchor=False, width="content")
        if not live:
            return False
        return st.toggle("Live", value=True, key="live", help="Refresh this page automatically.")


def stop_on_invalid_query(page: str) -> None:
    """Show an error and end the page if its URL query is not valid: a widget ignores an invalid value.

    When the user enters the page by a link with a query, the filters of an earlier visit are reset: Streamlit
    keeps them, and would add them to the query.
    """
    visited = (page, st.query_params.get("run") if page == "load_tests" else None)
    if st.session_state.get(_VISITED) != visited:
        st.session_state[_VISITED] = visited
        if st.query_params:
            _reset_filters(page, st.query_params)
    parameters = [(name, value) for name in st.query_params for value in st.query_params.get_all(name)]
    try:
        filters.check_query(page, parameters)
    except RequestMalformed as error:
        show_invalid_query(page, error)


def show_invalid_query(page: str, error: RequestMalformed) -> None:
    """Show what is wrong with the URL query, and end the page."""
    st.error(sentence(error), icon=":material/link_off:")
    st.button("Remove filters", on_click=replace_query, args=(page,))
    st.stop()


def replace_query(page: str, **query: str) -> None:
    """Replace the URL query of `page`, the current page. Filters that the query does not name are reset.

    Call it from a callback, or before the page is drawn. `st.query_params.clear` raises an exception while a
    filter is bound to the URL.
    """
    _reset_filters(page, query)
    st.query_params.from_dict(query)


def _reset_filters(page: str, query: Collection[str]) -> None:
    """Reset the filters of a page that the URL query does not name. Call it before they are drawn."""
    for name, value in filters.defaults(page).items():
        if name not in query and name in st.session_state:
            st.session_state[name] = value


def live_fragment(
    body: Callable[[], None],
    is_live: bool,
    *,
    every: float = REFRESH_SECONDS,
    result_key: str | None = None,
    later: int | None = None,
) -> None:
    """Draw `body` as a fragment that refreshes every `every` seconds while the page is live.

    `result_key` also shows the result of the last `run_action` with this key, even when `body` fails. With
    `later`, `draw_later` draws the body after the first screen; `later` is the height of its placeholder.
    """
    # Streamlit identifies a fragment by its function's name, which a partial lacks.
    function = body.func if isinstance(body, partial) else body
    name = f"{function.__module__}.{function.__qualname__}"

    def guarded() -> None:
        with error_boundary(name):
            if later is None:
                body()
            else:
                draw_later(name, later, body)
        if result_key is not None:
            _show_result(result_key)

    guarded.__qualname__ = name
    st.fragment(guarded, run_every=every if is_live else None)()


@contextmanager
def error_boundary(key: str) -> Iterator[None]:
    """Show an OrderSystemError as one sentence with a retry button. `key` is unique on the page."""
    try:
        yield
    except OrderSystemError as error:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.error(sentence(error), icon=":material/cloud_off:", width="stretch")
            st.button("Retry", key=f"retry-{key}", icon=":material/refresh:")


def sentence(error: OrderSystemError) -> str:
    """Return the error's message as an escaped Markdown sentence."""
    text = str(error)
    text = text[:1].upper() + text[1:]
    return plain_text.markdown(text if text.endswith((".", "!", "?")) else text + ".")


def run_action(key: str, action: Callable[[], object], success: str) -> None:
    """Run an action of the user and keep its result for `result_of` and the `live_fragment` with this
    `result_key`. The second click of a double click does nothing.

    Call it from a callback: a callback also runs when the refreshed page no longer has the button.
    """
    # Read before the action: another click can interrupt this script run at its next access to the session.
    results: dict[str, ActionResult] = st.session_state.setdefault(_RESULTS, {})
    last = results.get(key)
    if last is not None and last.text == success and clients.now() - last.at < DOUBLE_CLICK:
        return
    is_accepted, text = True, success
    try:
        action()
    except OrderSystemError as error:
        is_accepted, text = False, sentence(error)
    results[key] = ActionResult(is_accepted, text, clients.now())


def result_of(key: str) -> ActionResult | None:
    """Return the result of the last `run_action` with this key while it is to be shown."""
    results: dict[str, ActionResult] = st.session_state.get(_RESULTS, {})
    for each in [each for each, result in results.items() if clients.now() - result.at >= RESULT_VISIBLE]:
        results.pop(each, None)
    return results.get(key)


def _show_result(key: str) -> None:
    # Not a toast: Streamlit sends a toast once, and a rerun before it is drawn loses it.
    result = result_of(key)
    if result is None:
        return
    # A new key restarts the CSS animation that hides the result.
    with st.container(key=f"action-result-{result.at:%H%M%S%f}"):
        if result.is_accepted:
            st.success(result.text, icon=":material/check_circle:")
        else:
            st.error(result.text, icon=":material/block:")


@contextmanager
def field_with_error(name: str, errors: Mapping[str, str]) -> Iterator[None]:
    """Draw a form field, and below it its message of `errors`, a plain text."""
    with st.container(gap="xxsmall"):
        yield
        if name in errors:
            st.markdown(f":red[:material/error: {plain_text.markdown(errors[name])}]")


def select(label: str, key: str, options: list[str], *, placeholder: str = "any", **more: Any) -> str | None:
    """Draw a select box that may be empty and whose value is part of the URL."""
    selected: str | None = st.selectbox(
        label, options, index=None, key=key, bind="query-params", placeholder=placeholder, **more
    )
    return selected


def name_field(label: str, value: str, key: str) -> None:
    """Draw a field for the user's name. With an API key, the API records the name of the key instead."""
    if clients.user_key() is None:
        st.text_input(label, value, key=key, max_chars=80)
    else:
        st.caption(f"{label}: the name of your API key")


def entered(key: str) -> str:
    """Return the content of a text field or `name_field`; "dashboard" for a name that the API replaces."""
    return str(st.session_state.get(key, "dashboard"))


def metric_grid(metrics: Iterable[tuple[str, str, str]]) -> None:
    """Draw metrics, five in a row. Each is a label, a value, and a text shown below the value."""
    with st.grid(5, min_column_width=150):
        for label, value, below in metrics:
            st.metric(label, value, below, delta_color="off", delta_arrow="off", border=True)


def chart(figure: go.Figure, key: str, description: str) -> None:
    """Draw a figure; `description` is for screen readers."""
    _draw(figure, key, description, zoom=True)


def clickable_chart(figure: go.Figure, key: str, description: str) -> str | None:
    """Draw a figure and return the custom data of the mark on which the user has just clicked."""
    return _draw(figure, key, description, zoom=False)


def _draw(figure: go.Figure, key: str, description: str, *, zoom: bool) -> str | None:
    base_path = clients.settings().dashboard_base_path
    return plotly_figure.draw(figure, key, description, base_path=base_path, zoom=zoom)


def table_key(name: str, ids: Sequence[str]) -> str:
    """Return the key of a table with selections, for its present rows.

    A selection is a row number, and the browser sends it some time after the click. Other rows have another
    key, so that a late one is not applied to them.
    """
    number, shown = st.session_state.get(f"{name}-shown", (0, None))
    if shown != ids:
        number += 1
        st.session_state[f"{name}-shown"] = (number, ids)
    return f"{name}-{number}"


def deselect(name: str) -> None:
    """Draw a table with a new key, and so without a selection."""
    number, _ = st.session_state.get(f"{name}-shown", (0, None))
    st.session_state[f"{name}-shown"] = (number, None)


def clickable_table(
    name: str, data: pd.DataFrame, ids: Sequence[str], *, first_column: str, **options: Any
) -> str | None:
    """Draw a table whose rows can be clicked. Return the id of the row that the user has just clicked, and
    draw nothing then. `ids` are the ids of the rows, `options` those of `st.dataframe`."""
    clicked: str | None = st.session_state.pop(f"{name}-clicked", None)
    if clicked is not None:
        deselect(name)
        return clicked
    key = table_key(name, ids)
    st.dataframe(
        data,
        hide_index=True,
        key=key,
        on_select=partial(_keep_click, name, key, ids, first_column),
        selection_mode=["single-row", "single-cell"],
        **options,
    )
    return None


def _keep_click(name: str, key: str, ids: Sequence[str], first_column: str) -> None:
    selection = st.session_state[key].selection
    # The Tab key selects the first cell of the table.
    rows = [*selection.rows, *(row for row, column in selection.cells if column != first_column)]
    if rows:
        st.session_state[f"{name}-clicked"] = ids[rows[0]]


def page_link(page: str, label: str, *, icon: str | None = None, **query: str) -> None:
    """Draw a link to a page of the dashboard; `page` is the name of its module."""
    st.page_link(st.Page(_PAGES / f"{page}.py"), label=label, icon=icon, query_params=query)


def switch_page(page: str, **query: str) -> NoReturn:
    """Open a page of the dashboard; `page` is the name of its module."""
    st.switch_page(st.Page(_PAGES / f"{page}.py"), query_params=query)


def seconds(ms: float | None) -> str:
    """Format milliseconds as seconds with three decimals; None as a dash."""
    return "–" if ms is None else f"{ms / 1000:,.3f} s"


def empty_state(title: str, next_step: str) -> None:
    """Draw a box that says what is missing and what the user can do about it."""
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown(f"**{title}**", width="content")
        st.caption(next_step, width="content")
