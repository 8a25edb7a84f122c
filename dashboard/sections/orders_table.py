"""The table of orders: search, filters and pages."""

import streamlit as st

from dashboard import filters
from dashboard.data import clients
from dashboard.page_elements import empty_state
from dashboard.view_models import order_tables
from db.database import Row
from db.domain import TERMINAL_STATES, State
from db.read_models import order_search
from db.read_models.order_search import Search

PAGE_ROWS = 50
MAX_AUTO_HEIGHT_ROWS = 10
SCROLLING_HEIGHT = 560

_TABLE = "orders-table"
_SHOWN_IDS = "orders-table-ids"
"""Session state: the order ids of the rows that the user sees."""


def show() -> None:
    prefix_column, state_column, run_column, refresh_column = st.columns(
        [3, 5, 2, 2], vertical_alignment="bottom"
    )
    prefix = prefix_column.text_input(
        "Order id starts with",
        key="q",
        bind="query-params",
        icon=":material/search:",
        placeholder="all orders",
        on_change=_reset_page,
    )
    state = state_column.segmented_control(
        "State",
        filters.ORDER_STATES,
        default="any",
        required=True,
        key="state",
        bind="query-params",
        on_change=_reset_page,
    )
    run_id = run_column.text_input(
        "Run", key="run", bind="query-params", placeholder="all runs", on_change=_reset_page
    )
    refresh_column.button("Refresh", icon=":material/refresh:", width="stretch")
    search = search_of(prefix or "", state or "any", run_id or "", st.query_params.get("before", ""))
    rows = order_search.search(clients.database(), search, PAGE_ROWS)
    if not rows:
        empty_state("No matching orders", "Change the filters, or start an order above.")
        return
    _show_table(rows)
    _show_page_buttons(rows, is_first=search.before is None)


def _reset_page() -> None:
    st.query_params.pop("before", None)


def search_of(prefix: str, state: str, run_id: str, before: str) -> Search:
    """Return the filters as a search; `before` is a cursor as returned by `filters.cursor_of`."""
    return Search(
        prefix=prefix.strip() or None,
        run_id=run_id.strip() or None,
        state=State(state) if state in TERMINAL_STATES else None,
        only_open=state == "running",
        only_late=state == "late",
        before=filters.parse_cursor(before) if before else None,
    )


def _show_table(rows: list[Row]) -> None:
    st.caption("Select a row to open the order.")
    st.session_state[_SHOWN_IDS] = [row["order_id"] for row in rows]
    st.dataframe(
        order_tables.orders(rows),
        # A fixed height larger than the content would show empty rows.
        height=SCROLLING_HEIGHT if len(rows) > MAX_AUTO_HEIGHT_ROWS else "auto",
        hide_index=True,
        placeholder="",
        key=_TABLE,
        on_select=_open_selected,
        selection_mode="single-row",
        column_config={
            # Streamlit derives the width from the first rows, which may have no reason.
            "reason": st.column_config.TextColumn(width=150),
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


def _open_selected() -> None:
    # The selection is a row number of the table that the user saw. The next read may add orders above it.
    selected = st.session_state[_TABLE].selection.rows
    if selected:
        st.query_params["order"] = st.session_state[_SHOWN_IDS][selected[0]]


def _show_page_buttons(rows: list[Row], *, is_first: bool) -> None:
    with st.container(horizontal=True):
        if not is_first and st.button("Newest", icon=":material/first_page:"):
            del st.query_params["before"]
            st.rerun()
        if len(rows) == PAGE_ROWS and st.button("Older", icon=":material/chevron_right:"):
            st.query_params["before"] = filters.cursor_of(rows[-1]["accepted_at"], rows[-1]["order_id"])
            st.rerun()
