"""The table of orders: search, filters and pages."""

from functools import partial

import streamlit as st

from dashboard import filters
from dashboard.data import clients
from dashboard.page_elements import deselect, empty_state, table_key
from dashboard.sections import cancel_orders
from dashboard.view_models import order_tables
from db.database import Row
from db.domain import OPEN_STATES, State
from db.read_models import order_search
from db.read_models.order_search import Search

PAGE_ROWS = 50
ROW_HEIGHT, HEADER_HEIGHT, MAX_HEIGHT = 35, 38, 560
"""In pixels. A table that is higher than its content shows empty rows."""

FIRST_COLUMN = "age"

_TABLE = "orders-table"
_SHOWN = "orders-table-rows"
"""Session state: the key of the table that the user sees, and its orders."""


def show() -> None:
    prefix_column, state_column, run_column, refresh_column = st.columns(
        [3, 2, 3, 2], vertical_alignment="bottom"
    )
    prefix = prefix_column.text_input(
        "Order id starts with",
        key="q",
        bind="query-params",
        icon=":material/search:",
        placeholder="all orders",
        on_change=_reset_page,
    )
    state = state_column.selectbox(
        "State", filters.ORDER_STATES, key="state", bind="query-params", on_change=_reset_page
    )
    run_id = run_column.text_input(
        "Run", key="run", bind="query-params", placeholder="all runs", on_change=_reset_page
    )
    refresh_column.button("Refresh", icon=":material/refresh:", width="stretch", on_click=_clear_selection)
    search = search_of(prefix or "", state or "any", run_id or "", st.query_params.get("before", ""))
    # While there is a selection, the table keeps its orders.
    rows, selected = _selection()
    if not selected:
        rows = order_search.search(clients.database(), search, PAGE_ROWS)
    if not rows:
        empty_state("No matching orders", "Change the filters, or start an order above.")
        return
    cancel_orders.show(selected, _clear_selection)
    # Above the table: in the table, the Tab key moves to the next cell.
    _show_page_buttons(rows, is_first=search.before is None)
    _show_table(rows)


def _clear_selection() -> None:
    """Deselect all rows, so that the next run reads the orders again."""
    deselect(_TABLE)
    st.session_state.pop(_SHOWN, None)


def _selection() -> tuple[list[Row], list[str]]:
    """Return the orders that the user sees, and the ids of those that are selected."""
    key, rows = st.session_state.get(_SHOWN, (_TABLE, []))
    table = st.session_state.get(key)
    return rows, [rows[number]["order_id"] for number in table.selection.rows] if table else []


def _reset_page() -> None:
    st.query_params.pop("before", None)
    _clear_selection()


def search_of(prefix: str, state: str, run_id: str, before: str) -> Search:
    """Return the filters as a search; `before` is a cursor as returned by `filters.cursor_of`."""
    return Search(
        prefix=prefix.strip() or None,
        run_id=run_id.strip() or None,
        state=State(state) if state in list(State) else None,
        only_open=state == "running" or state in OPEN_STATES,
        only_late=state == "late",
        before=filters.parse_cursor(before) if before else None,
    )


def _show_table(rows: list[Row]) -> None:
    st.caption(
        "Click on an order to open it. With the keyboard, move right from the first column. "
        "Select rows at their left edge to cancel several orders."
    )
    ids = [row["order_id"] for row in rows]
    key = table_key(_TABLE, ids)
    st.session_state[_SHOWN] = (key, rows)
    st.dataframe(
        order_tables.orders(rows, clients.now()),
        height=min(HEADER_HEIGHT + ROW_HEIGHT * len(rows), MAX_HEIGHT),
        hide_index=True,
        placeholder="",
        key=key,
        on_select=partial(_open_clicked, key, ids),
        selection_mode=["multi-row", "single-cell"],
        alt="Orders, newest first",
        column_config={
            "state": st.column_config.MultiselectColumn(
                width=150,
                options=order_tables.STATE_COLORS,
                color=list(order_tables.STATE_COLORS.values()),
            ),
            # Streamlit derives the width from the first rows, which may have no reason.
            "reason": st.column_config.TextColumn(width=150),
            FIRST_COLUMN: st.column_config.TextColumn("accepted"),
            "accepted": st.column_config.DatetimeColumn("accepted (UTC)", format="YYYY-MM-DD HH:mm:ss.SSS"),
            "completion s": st.column_config.ProgressColumn(
                "completion",
                format="%.3f s",
                min_value=0,
                max_value=clients.settings().order_deadline_seconds,
            ),
            "amount": st.column_config.NumberColumn(format="%.2f"),
        },
    )


def _open_clicked(key: str, ids: list[str]) -> None:
    for row, column in st.session_state[key].selection.cells:
        # The Tab key selects the first cell of the table.
        if column != FIRST_COLUMN:
            st.query_params["order"] = ids[row]


def _show_page_buttons(rows: list[Row], *, is_first: bool) -> None:
    with st.container(horizontal=True):
        if not is_first:
            st.button("Newest", icon=":material/first_page:", on_click=_reset_page)
        if len(rows) == PAGE_ROWS:
            last = filters.cursor_of(rows[-1]["accepted_at"], rows[-1]["order_id"])
            st.button("Older", icon=":material/chevron_right:", on_click=_go_to, args=(last,))


def _go_to(cursor: str) -> None:
    st.query_params["before"] = cursor
    _clear_selection()
