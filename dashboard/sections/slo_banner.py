"""The SLO result of some orders as a banner: green when met, red when breached, gray when not proven."""

import streamlit as st

from dashboard.page_elements import STATUS_STYLE
from dashboard.view_models.slo_status import slo_status
from loadtest.verdict.slo import SloVerdict

IS_HEALTHY = {SloVerdict.MET: True, SloVerdict.BREACHED: False, SloVerdict.NOT_PROVEN: None}


def show(orders: int, late: int, target: float) -> None:
    """Draw the result of `orders` finished and overdue orders, of which `late` are late."""
    status = slo_status(orders, late, target)
    icon, color = STATUS_STYLE[IS_HEALTHY[status.verdict] if status.verdict else None]
    with st.container(border=True, key=f"banner-{color}", gap="xxsmall"):
        st.markdown(f":{color}[{icon}] **{status.headline}**")
        st.caption(status.detail)
