"""The entry point of the multipage app. Streamlit reruns it in every session, at every interaction."""

from pathlib import Path

import streamlit as st

from dashboard.data import clients

PAGES = Path(__file__).parent / "pages"

st.set_page_config(page_title="Orders", page_icon=Path(__file__).with_name("icon.png"), layout="wide")

st.navigation(
    [
        st.Page(PAGES / "overview.py", title="Overview", icon=":material/speed:", default=True),
        st.Page(PAGES / "orders.py", title="Orders", icon=":material/list_alt:"),
        st.Page(PAGES / "reviews.py", title="Reviews", icon=":material/how_to_reg:"),
        st.Page(PAGES / "latency.py", title="Latency", icon=":material/timer:"),
        st.Page(PAGES / "load_tests.py", title="Load tests", icon=":material/fitness_center:"),
        st.Page(PAGES / "audit.py", title="Audit", icon=":material/fact_check:"),
        st.Page(PAGES / "stage.py", title="Stage", icon=":material/slideshow:"),
    ],
    position="top",
).run()

if clients.user_key() is not None:
    st.link_button("Sign out", "logout", icon=":material/logout:", type="tertiary")
