"""The form that starts one order or a batch."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import pandas as pd
import streamlit as st

from dashboard import plain_text
from dashboard.data import clients
from dashboard.data.order_api import OrderApi
from dashboard.page_elements import sentence
from db.domain import Address, Item, ReviewMode
from orchestrator.errors import OrderSystemError
from orchestrator.messages import OrderRequest
from orchestrator.rest_client import Json

MAX_BATCH = 500
PARALLEL_STARTS = 8


def show() -> None:
    with st.expander("Start orders", icon=":material/add_shopping_cart:"), st.form("start", border=False):
        left, middle, right = st.columns([3, 2, 2])
        order_id = left.text_input("Order id", placeholder="generated", help="Letters, digits, - and _")
        count = middle.number_input(
            "Number of orders", 1, MAX_BATCH, 1, help="Several orders have numbered ids."
        )
        review = right.segmented_control(
            "Review", [mode.value for mode in ReviewMode], default=ReviewMode.AUTO.value, required=True
        )
        street, city, state, zip_code = st.columns([3, 2, 1, 1])
        address = Address(
            street.text_input("Street", "1 Main Street"),
            city.text_input("City", "Springfield"),
            state.text_input("State", "IL"),
            zip_code.text_input("ZIP", "62701"),
        )
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
        is_submitted = st.form_submit_button("Start", type="primary", icon=":material/play_arrow:")
    if not is_submitted:
        return
    name = order_id.strip() or f"web-{uuid4().hex[:8]}"
    items, unreadable = items_of(lines)
    problems = [*unreadable, *problems_of(name, address, items)]
    for problem in problems:
        st.error(plain_text.markdown(problem[:1].upper() + problem[1:] + "."), icon=":material/error:")
    if not problems:
        body = {
            "initial_address": vars(address),
            "items": [vars(item) for item in items],
            "review": review or ReviewMode.AUTO.value,
        }
        _start(order_ids(name, int(count)), body)


def items_of(lines: pd.DataFrame) -> tuple[list[Item], list[str]]:
    """Return the items of the edited table, and the problems of its lines. Ignores empty lines."""
    items, problems = [], []
    for number, line in enumerate(lines.to_dict("records"), start=1):
        sku, quantity, price = line["sku"], line["quantity"], line["unit price"]
        if all(pd.isna(value) for value in (sku, quantity, price)):
            continue
        if pd.isna(quantity) or pd.isna(price) or float(quantity) != int(quantity):
            problems.append(f"line {number}: enter a whole quantity and a price")
            continue
        items.append(Item("" if pd.isna(sku) else str(sku), int(quantity), round(float(price) * 100)))
    return items, problems


def problems_of(order_id: str, address: Address, items: list[Item]) -> list[str]:
    """Return the problems for which the API would reject the order."""
    return OrderRequest(order_id, address, f"pay-{order_id}", datetime.now(UTC), items).validation_errors()


def order_ids(name: str, count: int) -> list[str]:
    """Return numbered ids for a batch, and the plain name for a single order."""
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def _start(ids: list[str], body: Json) -> None:
    api = clients.api()
    with ThreadPoolExecutor(PARALLEL_STARTS) as pool:
        results = list(pool.map(lambda order_id: _start_one(api, order_id, body), ids))
    problems = [problem for problem in results if problem is not None]
    started = len(ids) - len(problems)
    if started and len(ids) == 1:
        st.query_params["order"] = ids[0]
        st.rerun()
    if started:
        st.success(f"Started {started} of {len(ids)} orders.", icon=":material/check_circle:")
    for problem in dict.fromkeys(problems):
        times = problems.count(problem)
        st.error(problem if times == 1 else f"{problem} ({times} orders)", icon=":material/error:")


def _start_one(api: OrderApi, order_id: str, body: Json) -> str | None:
    try:
        api.start(order_id, body)
    except OrderSystemError as error:
        return sentence(error)
    return None
