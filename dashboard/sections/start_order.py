"""Starting one order or a batch, from a form that says what is wrong."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import pandas as pd
import streamlit as st

from dashboard import plain_text
from dashboard.api_client import OrderApi
from dashboard.data import clients
from dashboard.layout import sentence
from db.domain import Address, Item, ReviewMode
from orchestrator.errors import OrderSystemError
from orchestrator.messages import OrderRequest
from orchestrator.rest_client import Json

MAX_BATCH = 500
AT_ONCE = 8


def show() -> None:
    """The form, and what became of the last orders that it started."""
    with st.expander("Start orders", icon=":material/add_shopping_cart:"), st.form("start", border=False):
        left, middle, right = st.columns([3, 2, 2])
        order_id = left.text_input("Order id", placeholder="made for you", help="Letters, digits, - and _")
        count = middle.number_input("How many", 1, MAX_BATCH, 1, help="More than one: the id gets a number")
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
                "sku": st.column_config.TextColumn("Article"),
                "quantity": st.column_config.NumberColumn("Quantity", step=1),
                "unit price": st.column_config.NumberColumn("Unit price", format="%.2f", step=0.01),
            },
        )
        is_wanted = st.form_submit_button("Start", type="primary", icon=":material/play_arrow:")
    if not is_wanted:
        return
    name = order_id.strip() or f"web-{uuid4().hex[:8]}"
    items, unreadable = items_of(lines)
    problems = [*unreadable, *problems_of(name, address, items)]
    if problems:
        for problem in problems:
            st.error(plain_text.markdown(problem[:1].upper() + problem[1:] + "."), icon=":material/error:")
        return
    _start(name, int(count), content_of(address, items, ReviewMode(review or ReviewMode.AUTO)))


def items_of(lines: pd.DataFrame) -> tuple[list[Item], list[str]]:
    """The order's lines as items, and what cannot be read of them. Empty lines count as none."""
    items, problems = [], []
    for number, line in enumerate(lines.to_dict("records"), start=1):
        sku, quantity, price = line["sku"], line["quantity"], line["unit price"]
        if all(pd.isna(value) for value in (sku, quantity, price)):
            continue
        if pd.isna(quantity) or pd.isna(price) or float(quantity) != int(quantity):
            problems.append(f"line {number}: give a whole quantity and a price")
            continue
        items.append(Item("" if pd.isna(sku) else str(sku), int(quantity), round(float(price) * 100)))
    return items, problems


def problems_of(order_id: str, address: Address, items: list[Item]) -> list[str]:
    """What the API would say about the order, before it is asked."""
    return OrderRequest(order_id, address, f"pay-{order_id}", datetime.now(UTC), items).validation_errors()


def content_of(address: Address, items: list[Item], review: ReviewMode) -> Json:
    """The body of the start."""
    return {
        "initial_address": vars(address),
        "items": [vars(item) for item in items],
        "review": review.value,
    }


def numbered(name: str, count: int) -> list[str]:
    """The ids of a batch; a single order keeps its name."""
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def _start(name: str, count: int, content: Json) -> None:
    order_ids = numbered(name, count)
    api = clients.api()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = list(pool.map(lambda order_id: _start_one(api, order_id, content), order_ids))
    failed = [problem for problem in problems if problem is not None]
    started = count - len(failed)
    if started and count == 1:
        st.query_params["order"] = name
        st.rerun()
    if started:
        st.success(f"{started} of {count} orders are accepted.", icon=":material/check_circle:")
    for problem in _different(failed):
        st.error(problem, icon=":material/error:")


def _start_one(api: OrderApi, order_id: str, content: Json) -> str | None:
    try:
        api.start(order_id, content)
    except OrderSystemError as error:
        return sentence(error)
    return None


def _different(problems: list[str]) -> Iterator[str]:
    """Each sentence once, with how many orders it is about."""
    for problem in dict.fromkeys(problems):
        times = problems.count(problem)
        yield problem if times == 1 else f"{problem} ({times} orders)"
