"""The form that starts orders."""

import pandas as pd

from dashboard.sections.start_order import items_of, order_ids, problems_of
from db.domain import Address, Item


def test_the_form_lists_the_problems_of_an_order():
    address = Address("", "Springfield", "IL", "62701")
    found = problems_of("no spaces please", address, [Item("A", 0, 100)])
    assert found == [
        "street is empty",
        "order_id must be 1 to 64 letters, digits, '-' or '_'",
        "line 1: quantity must be 1 to 1000000",
    ]


def test_lines_become_items_in_cents():
    lines = pd.DataFrame([
        {"sku": "A", "quantity": 2, "unit price": 19.99},
        {"sku": None, "quantity": None, "unit price": None},
        {"sku": "B", "quantity": 1.5, "unit price": 1.0},
    ])  # fmt: skip
    assert items_of(lines) == ([Item("A", 2, 1_999)], ["line 3: enter a whole quantity and a price"])


def test_an_emptied_sku_cell_is_an_empty_sku():
    # st.data_editor returns text columns with the data type str, in which an emptied cell is NaN.
    lines = pd.DataFrame({"sku": ["A", None], "quantity": [1, 1], "unit price": [1.0, 1.0]}).astype(
        {"sku": "str"}
    )
    items, unreadable = items_of(lines)
    assert ([item.sku for item in items], unreadable) == (["A", ""], [])
    address = Address("1 Main Street", "Springfield", "IL", "62701")
    assert problems_of("o", address, items) == ["line 2: sku is empty"]


def test_ids_of_a_batch_are_numbered():
    assert order_ids("x", 1) == ["x"]
    assert order_ids("x", 3) == ["x-1", "x-2", "x-3"]
