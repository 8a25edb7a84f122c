"""The form that starts orders."""

import pandas as pd
import pytest

from dashboard.sections.start_order import items_of, order_ids
from orchestrator.errors import RequestMalformed


def test_lines_become_items_in_cents():
    lines = pd.DataFrame([
        {"sku": "A", "quantity": 2, "unit price": 19.99},
        {"sku": None, "quantity": None, "unit price": None},
        {"sku": "B", "quantity": 1.5, "unit price": 1.0},
    ])  # fmt: skip
    assert items_of(lines.head(2)) == [{"sku": "A", "quantity": 2, "unit_price_cents": 1_999}]
    with pytest.raises(RequestMalformed, match="line 3: enter a whole quantity and a price"):
        items_of(lines)


def test_an_emptied_sku_cell_is_an_empty_sku():
    # st.data_editor returns text columns with the data type str, in which an emptied cell is NaN.
    lines = pd.DataFrame({"sku": ["A", None], "quantity": [1, 1], "unit price": [1.0, 1.0]}).astype(
        {"sku": "str"}
    )
    assert [item["sku"] for item in items_of(lines)] == ["A", ""]


def test_ids_of_a_batch_are_numbered():
    assert order_ids("x", 1) == ["x"]
    assert order_ids("x", 3) == ["x-1", "x-2", "x-3"]
