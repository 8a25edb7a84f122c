"""Orders: start orders, search them, and show one of them."""

import streamlit as st

from dashboard.page_elements import error_boundary, page_header, stop_on_invalid_query
from dashboard.sections import batch_progress, order_view, orders_table, start_order

stop_on_invalid_query("orders")
order_id = st.query_params.get("order")
with error_boundary("orders"):
    if order_id:
        start_order.forget_started()
        order_view.show(order_id)
    else:
        page_header("Orders", live=False)
        start_order.show()
        batch_progress.show()
        orders_table.show()
