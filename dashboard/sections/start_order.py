"""The form that starts one order or a batch."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pandas as pd
import streamlit as st

from dashboard.data import clients
from dashboard.data.order_api import OrderApi
from dashboard.page_elements import sentence
from db.domain import DEFAULT_COUNTRY, ORDER_ID_PATTERN, ExecutionMode, ReviewMode
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.rest_client import Json

MAX_BATCH = 500
PARALLEL_STARTS = 8
_GENERATED_ID = "generated-order-id"


def show() -> None:
    with st.expander("Start orders", icon=":material/add_shopping_cart:"), st.form("start", border=False):
        left, middle, right, last = st.columns([3, 2, 2, 2])
        order_id = left.text_input("Order id", placeholder="generated", help="Letters, digits, - and _")
        count = middle.number_input(
            "Number of orders", 1, MAX_BATCH, 1, help="The ids of several orders end with a number."
        )
        review = right.segmented_control(
            "Review", [mode.value for mode in ReviewMode], default=ReviewMode.AUTO.value, required=True
        )
        execution = last.segmented_control(
            "Execution",
            [mode.value for mode in ExecutionMode],
            help="visible: Temporal's UI shows every step with its retries. Without a choice, the default of "
            "the API.",
        )
        street, street2, city, state, zip_code, country = st.columns([3, 2, 2, 1, 1, 1])
        address = {
            "street": street.text_input("Street", "1 Main Street"),
            "street2": street2.text_input("Second line"),
            "city": city.text_input("City", "Springfield"),
            "state": state.text_input("State", "IL"),
            "zip": zip_code.text_input("ZIP", "62701"),
            "country": country.text_input("Country", DEFAULT_COUNTRY, help="ISO 3166 code"),
        }
        lines = st.data_editor(
            pd.DataFrame([{"sku": "SAMPLE-1", "quantity": 1, "unit price": 42.0}]),
            num_rows="dynamic",
            key="start-items",
            column_config={
                "sku": st.column_config.TextColumn("SKU"),
                "quantity": st.column_config.NumberColumn("Quantity", step=1),
                "unit price": st.column_config.NumberColumn("Unit price", format="%.2f", step=0.01),
            },
        )
        # A second click during the start sends the same id. After the start, the button has another key, so a
        # late second click has no effect.
        generated_id = st.session_state.setdefault(_GENERATED_ID, f"web-{uuid4().hex[:8]}")
        is_submitted = st.form_submit_button(
            "Start", type="primary", icon=":material/play_arrow:", key=f"start-{generated_id}"
        )
    if not is_submitted:
        return
    name = order_id.strip() or generated_id
    try:
        if not re.fullmatch(ORDER_ID_PATTERN, name):
            raise UsageError("an order id has 1 to 64 letters, digits, '-' or '_'")
        body = {"initial_address": address, "items": items_of(lines), "review": review}
        if execution is not None:
            body["execution"] = execution
        _start(order_ids(name, int(count)), body)
    except OrderSystemError as error:
        st.error(sentence(error), icon=":material/error:")


def items_of(lines: pd.DataFrame) -> list[Json]:
    """Return the items of the edited table, without empty lines. Raises UsageError for an invalid line."""
    items = []
    for number, line in enumerate(lines.to_dict("records"), start=1):
        sku, quantity, price = line["sku"], line["quantity"], line["unit price"]
        if all(pd.isna(value) for value in (sku, quantity, price)):
            continue
        if pd.isna(quantity) or pd.isna(price) or float(quantity) != int(quantity):
            raise UsageError(f"line {number}: enter a whole quantity and a price")
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
    """Start these orders. Raises the error of the first order: all have the same body, so all would fail."""
    api = clients.api()
    api.start(ids[0], body)
    with ThreadPoolExecutor(PARALLEL_STARTS) as pool:
        results = list(pool.map(lambda order_id: _start_one(api, order_id, body), ids[1:]))
    # Delete the id only now: a click that interrupts this script run must send the same id.
    del st.session_state[_GENERATED_ID]
    if len(ids) == 1:
        st.query_params["order"] = ids[0]
        st.rerun()
    problems = [problem for problem in results if problem is not None]
    st.success(f"Started {len(ids) - len(problems)} of {len(ids)} orders.", icon=":material/check_circle:")
    for problem, times in Counter(problems).items():
        st.error(problem if times == 1 else f"{problem} ({times} orders)", icon=":material/error:")


def _start_one(api: OrderApi, order_id: str, body: Json) -> str | None:
    try:
        api.start(order_id, body)
    except OrderSystemError as error:
        return sentence(error)
    return None
