"""The form that starts one order or a batch."""

import re
from collections.abc import Mapping
from uuid import uuid4

import pandas as pd
import streamlit as st

from dashboard.data import clients
from dashboard.data.api_reads import user_may
from dashboard.data.order_batches import current_batch, start_batch
from dashboard.page_elements import field_with_error
from dashboard.view_models.field_errors import FORM, field_errors
from db.domain import DEFAULT_COUNTRY, ORDER_ID_PATTERN, ExecutionMode, ReviewMode
from loadtest.charts import plain_text
from orchestrator.errors import OrderSystemError, Overloaded, RequestMalformed
from orchestrator.rest_client import Json
from orchestrator.security.key_hashing import Role

MAX_BATCH = 500
FIELDS = ("order_id", "review", "execution", "street", "street2", "city", "state", "zip", "country", "items")

_GENERATED_ID = "generated-order-id"
_STARTED = "started-order-id"
"""Session state: the order to open, until its page is shown. A late second click sends the address of this
page again."""

_ERRORS = "start-errors"
"""Session state: the messages of the last start by field."""


def forget_started() -> None:
    """Forget the started order, because the page of an order is shown."""
    st.session_state.pop(_STARTED, None)


def show() -> None:
    if not user_may(Role.OPERATOR):
        return
    if _STARTED in st.session_state:
        st.query_params["order"] = st.session_state[_STARTED]
        st.rerun()
    batch, errors = current_batch(), st.session_state.get(_ERRORS, {})
    with (
        st.expander("Start orders", icon=":material/add_shopping_cart:", expanded=bool(errors)),
        st.form("start", border=False),
    ):
        order_id, count, modes = _order_fields(errors)
        address = _address_fields(errors)
        lines = _item_table(errors)
        # A second click during the start sends the same id. After the start, the button has another key, so a
        # late second click has no effect.
        generated_id = st.session_state.setdefault(_GENERATED_ID, f"web-{uuid4().hex[:8]}")
        is_submitted = st.form_submit_button(
            "Start",
            type="primary",
            icon=":material/play_arrow:",
            key=f"start-{generated_id}",
            disabled=batch is not None and batch.is_running,
        )
        if FORM in errors:
            st.error(plain_text.markdown(errors[FORM]), icon=":material/error:")
    if not is_submitted:
        return
    name = order_id.strip() or generated_id
    try:
        ids = order_ids(name, int(count))
        if not re.fullmatch(ORDER_ID_PATTERN, ids[-1]):
            message = "an order id has 1 to 64 letters, digits, '-' or '_'"
            if len(ids) > 1:
                message += f", with its number, such as '-{len(ids)}'"
            raise RequestMalformed(message, {"order_id": message})
        _start(ids, {"initial_address": address, "items": items_of(lines), **modes})
        st.session_state[_ERRORS] = {}
    except OrderSystemError as error:
        st.session_state[_ERRORS] = field_errors(error, FIELDS)
    st.rerun()


def _order_fields(errors: Mapping[str, str]) -> tuple[str, float, dict[str, str]]:
    """Draw the fields above the address. Return order id, number of orders, and the chosen modes."""
    with st.grid(4, min_column_width=180):
        with field_with_error("order_id", errors):
            order_id = st.text_input("Order id", placeholder="generated", help="Letters, digits, - and _")
        count = st.number_input(
            "Number of orders", 1, MAX_BATCH, 1, help="The ids of several orders end with a number."
        )
        with field_with_error("review", errors):
            review = st.segmented_control(
                "Review", [mode.value for mode in ReviewMode], default=ReviewMode.AUTO.value, required=True
            )
        with field_with_error("execution", errors):
            execution = st.segmented_control(
                "Execution",
                [mode.value for mode in ExecutionMode],
                help="visible: Temporal's UI shows every step with its retries. Without a choice, the "
                "default of the API.",
            )
    return order_id, count, {k: v for k, v in (("review", review), ("execution", execution)) if v is not None}


def _address_fields(errors: Mapping[str, str]) -> dict[str, str]:
    fields = {
        "street": ("Street", "1 Main Street", None),
        "street2": ("Second line", "", None),
        "city": ("City", "Springfield", None),
        "state": ("State", "IL", None),
        "zip": ("ZIP", "62701", None),
        "country": ("Country", DEFAULT_COUNTRY, "ISO 3166 code"),
    }
    address = {}
    with st.grid(3, min_column_width=200):
        for name, (label, default, help_text) in fields.items():
            with field_with_error(name, errors):
                address[name] = st.text_input(label, default, help=help_text)
    return address


def _item_table(errors: Mapping[str, str]) -> pd.DataFrame:
    with field_with_error("items", errors):
        return st.data_editor(
            pd.DataFrame([{"sku": "SAMPLE-1", "quantity": 1, "unit price": 42.0}]),
            num_rows="dynamic",
            key="start-items",
            alt="Items of the order",
            column_config={
                "sku": st.column_config.TextColumn("SKU"),
                "quantity": st.column_config.NumberColumn("Quantity", step=1),
                "unit price": st.column_config.NumberColumn("Unit price", format="%.2f", step=0.01),
            },
        )


def items_of(lines: pd.DataFrame) -> list[Json]:
    """Return the items of the edited table, without empty lines. Raises RequestMalformed for an invalid
    line."""
    items = []
    for number, line in enumerate(lines.to_dict("records"), start=1):
        sku, quantity, price = line["sku"], line["quantity"], line["unit price"]
        if all(pd.isna(value) for value in (sku, quantity, price)):
            continue
        if pd.isna(quantity) or pd.isna(price) or float(quantity) != int(quantity):
            message = f"line {number}: enter a whole quantity and a price"
            raise RequestMalformed(message, {"items": message})
        items.append(
            {
                "sku": "" if pd.isna(sku) else str(sku),
                "quantity": int(quantity),
                "unit_price_cents": round(float(price) * 100),
            }
        )
    return items


def order_ids(name: str, count: int) -> list[str]:
    """Return `name` for a single order, or `name-1` to `name-count`."""
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def _start(ids: list[str], body: Json) -> None:
    """Start one order and open it, or start a batch. Raises the error of the first order: all have the same
    body, so all would fail."""
    api = clients.api()
    try:
        api.start(ids[0], body)
    except Overloaded:
        if len(ids) == 1:
            raise
    if len(ids) == 1:
        st.session_state[_STARTED] = ids[0]
    # Delete the id only now: a click that interrupts this script run must send the same id.
    del st.session_state[_GENERATED_ID]
    if len(ids) > 1:
        # Starts are idempotent, so the batch can include the first order.
        start_batch("Started", ids, lambda order_id: api.start(order_id, body))
