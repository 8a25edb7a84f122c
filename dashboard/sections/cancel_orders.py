"""Cancellation of the selected orders: a preview, then one request per order."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from dashboard.data import clients
from dashboard.data.api_reads import user_may
from dashboard.data.order_batches import current_batch, start_batch
from dashboard.page_elements import entered, error_boundary, field_with_error, name_field
from dashboard.view_models.field_errors import text_field_errors
from dashboard.view_models.order_requests import why_not_cancelled
from db.read_models import order_search
from orchestrator.security.key_hashing import Role

_KEY = "cancel-many-{}"
_ERRORS = "cancel-many-errors"
"""Session state: the messages of the last confirmation by field."""

_HAS_STARTED = "cancel-many-has-started"
"""Session state: the cancellation has started, so the dialog closes. The button does not return that: when an
order ends meanwhile, its label has another number, and it is a new button for Streamlit."""


def show(order_ids: list[str], deselect: Callable[[], None]) -> None:
    """Draw the button that opens the preview. `deselect` is called when the cancellation starts."""
    if not order_ids or not user_may(Role.OPERATOR):
        return
    batch = current_batch()
    label = "Cancel the selected order" if len(order_ids) == 1 else f"Cancel {len(order_ids)} selected orders"
    is_running = batch is not None and batch.is_running
    # With a key, the button stays the same when its label changes.
    if st.button(label, icon=":material/cancel:", disabled=is_running, key="cancel-selected"):
        st.session_state[_ERRORS], st.session_state[_HAS_STARTED] = {}, False
        _confirm(order_ids, deselect)


@st.dialog("Cancel orders", width="medium", icon=":material/cancel:")
def _confirm(order_ids: list[str], deselect: Callable[[], None]) -> None:
    if st.session_state[_HAS_STARTED]:
        # Close the dialog.
        st.rerun()
    with error_boundary("cancel-orders"):
        orders = order_search.states(clients.database(), order_ids)
        problems = {order["order_id"]: why_not_cancelled(order) for order in orders}
        possible = [order_id for order_id, problem in problems.items() if problem is None]
        st.markdown(f"**{len(possible)} of {len(orders)}** can be cancelled now.")
        st.dataframe(
            pd.DataFrame(
                [
                    {
                        "order": order["order_id"],
                        "state": order["state"].replace("_", " "),
                        "cancellation": problems[order["order_id"]] or "possible",
                    }
                    for order in orders
                ]
            ),
            hide_index=True,
            alt="The selected orders, and whether each can be cancelled",
        )
        st.caption("Charged orders are refunded, packed ones are recalled. An order may progress meanwhile.")
        with st.form("cancel-orders", border=False):
            errors = st.session_state[_ERRORS]
            with field_with_error("reason", errors):
                st.text_input("Reason", "requested by the customer", key=_KEY.format("reason"))
            with field_with_error("cancelled_by", errors):
                name_field("Cancelled by", "dashboard", key=_KEY.format("cancelled_by"))
            st.form_submit_button(
                f"Cancel {len(possible)} order{'' if len(possible) == 1 else 's'}",
                type="primary",
                disabled=not possible,
                on_click=_cancel,
                args=(possible, deselect),
            )


def _cancel(order_ids: list[str], deselect: Callable[[], None]) -> None:
    if st.session_state[_HAS_STARTED]:
        # The second click of a double click.
        return
    values = {name: entered(_KEY.format(name)) for name in ("reason", "cancelled_by")}
    st.session_state[_ERRORS] = text_field_errors(values)
    if st.session_state[_ERRORS]:
        return
    api = clients.api()
    st.session_state[_HAS_STARTED] = True
    deselect()
    start_batch("Cancelled", order_ids, lambda order_id: api.cancel(order_id, **values))
