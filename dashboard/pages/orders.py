"""Orders: start some, find one, and look at one from its acceptance to its outcome."""

import streamlit as st

from dashboard.layout import failures_told, head
from dashboard.sections import order_view, orders_table, start_order

chosen = st.query_params.get("order")
with failures_told("orders"):
    if chosen:
        order_view.show(chosen)
    else:
        head("Orders", live=False)
        start_order.show()
        orders_table.show()
