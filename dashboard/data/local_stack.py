"""The processes of the stack of this ORDERS_HOME, if it runs on the dashboard's machine."""

import psutil
import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import LIVE_SECONDS
from dashboard.view_models.component_health import LocalProcess
from orchestrator.embedded import Stack


@st.cache_data(ttl=LIVE_SECONDS, show_spinner=False)
def processes() -> list[LocalProcess]:
    """Return the process of each component; [] if no stack runs here."""
    stack = Stack(clients.settings())
    return [
        LocalProcess(
            each.name,
            "paused" if _is_paused(each.pid) else each.state.lower(),
            each.started_at,
            len(stack.restarted_at(each.name)),
        )
        for each in stack.processes()
    ]


def _is_paused(pid: int) -> bool:
    try:
        return pid > 0 and psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
