"""The processes of the stack of this ORDERS_HOME, if it runs on the dashboard's machine."""

import streamlit as st

from dashboard.data import clients
from dashboard.data.cached import LIVE_SECONDS
from dashboard.view_models.component_health import LocalProcess
from orchestrator.embedded import Stack
from orchestrator.embedded.process_table import is_paused


@st.cache_data(ttl=LIVE_SECONDS, show_spinner=False)
def processes() -> list[LocalProcess]:
    """Return the process of each component; [] if no stack runs here."""
    stack = Stack(clients.settings())
    return [
        LocalProcess(
            each.name,
            "paused" if is_paused(each.pid) else each.state.lower(),
            each.started_at,
            len(stack.restarted_at(each.name)),
        )
        for each in stack.processes()
    ]


def serves_the_api() -> bool:
    """Return whether the API of the dashboard belongs to the local stack. It authorizes the users."""
    settings = clients.settings()
    return bool(Stack(settings).running_settings().api_url == settings.api_url)
