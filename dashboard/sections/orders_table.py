"""The table of all orders: search, filter, choose one."""

from datetime import datetime

import streamlit as st

from dashboard.data import clients
from dashboard.layout import nothing_yet
from dashboard.view_models import order_tables
from db.database import Row
from db.domain import TERMINAL_STATES, State
from db.read_models import order_search
from db.read_models.order_search import Search

PAGE_ROWS = 50
FEW_ROWS = 10
TABLE_HEIGHT = 560
_TABLE = "orders-table"
_DRAWN = "orders-drawn"
"""Session state: the ids of the rows as the viewer sees them."""

STATES = ("any", "running", "late", *(state.value for state in TERMINAL_STATES))


def show() -> None:
    """Filters, the page of orders that they leave, and the way to older ones."""
    search_box, state_box, run_box, fresh = st.columns([3, 5, 2, 2], vertical_alignment="bottom")
    prefix = search_box.text_input(
        "Order id begins with",
        key="q",
        bind="query-params",
        icon=":material/search:",
        placeholder="all orders",
        on_change=_begin_at_the_newest,
    )
    state = state_box.segmented_control(
        "Show",
        STATES,
        default="any",
        required=True,
        key="state",
        bind="query-params",
        on_change=_begin_at_the_newest,
    )
    run_id = run_box.text_input(
        "Run", key="run", bind="query-params", placeholder="all runs", on_change=_begin_at_the_newest
    )
    fresh.button("Refresh", icon=":material/refresh:", width="stretch")
    wanted = search_of(prefix or "", state or "any", run_id or "", st.query_params.get("before", ""))
    rows = order_search.search(clients.reader(), wanted, PAGE_ROWS)
    if not rows:
        nothing_yet("No such order", "Change the filters, or start an order above.")
        return
    _table(rows)
    _turn_pages(rows, is_first=wanted.before is None)


def _begin_at_the_newest() -> None:
    # The place of an older page belongs to the filters it was turned to under.
    st.query_params.pop("before", None)


def search_of(prefix: str, state: str, run_id: str, before: str) -> Search:
    """The filters as a search; `before` is what `place_of` made."""
    return Search(
        prefix=prefix.strip() or None,
        run_id=run_id.strip() or None,
        state=State(state) if state in TERMINAL_STATES else None,
        only_open=state == "running",
        only_late=state == "late",
        before=_place(before),
    )


def place_of(row: Row) -> str:
    """Where a page ends, as text for the address bar."""
    return f"{row['accepted_at'].isoformat()}~{row['order_id']}"


def _place(text: str) -> tuple[datetime, str] | None:
    moment, _, order_id = text.partition("~")
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (at, order_id) if at.tzinfo is not None else None


def _table(rows: list[Row]) -> None:
    st.caption("Choose a row to see the order.")
    st.session_state[_DRAWN] = [row["order_id"] for row in rows]
    st.dataframe(
        order_tables.orders(rows),
        # A table that is higher than its rows ends in empty ones.
        height=TABLE_HEIGHT if len(rows) > FEW_ROWS else "auto",
        hide_index=True,
        placeholder="",
        key=_TABLE,
        on_select=_open_chosen,
        selection_mode="single-row",
        column_config={
            # As wide as the longest, also where the first rows have none.
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


def _open_chosen() -> None:
    # A choice is the place of a row in the table that was seen; when the table is read again, orders may have
    # come in above it. A callback runs before that.
    chosen = st.session_state[_TABLE].selection.rows
    if chosen:
        st.query_params["order"] = st.session_state[_DRAWN][chosen[0]]


def _turn_pages(rows: list[Row], *, is_first: bool) -> None:
    with st.container(horizontal=True):
        if not is_first and st.button("Newest", icon=":material/first_page:"):
            del st.query_params["before"]
            st.rerun()
        if len(rows) == PAGE_ROWS and st.button("Older", icon=":material/chevron_right:"):
            st.query_params["before"] = place_of(rows[-1])
            st.rerun()
