"""Orders: start some, find one, and look at one from its acceptance to its outcome."""

import streamlit as st

from dashboard.layout import failures_told, head
from dashboard.orders import book, order_page, start_form

chosen = st.query_params.get("order")
with failures_told("orders"):
    if chosen:
        order_page.show(chosen)
    else:
        head("Orders", live=False)
        start_form.show()
        book.show()
