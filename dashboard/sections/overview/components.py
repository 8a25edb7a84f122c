"""The components of the stack."""

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import api_reads, clients, local_stack
from dashboard.view_models.component_health import ComponentHealth, age_text, components


def show() -> None:
    """Draw a table with the health, age and restarts of each component."""
    st.subheader("Components", anchor=False)
    found = components(api_reads.health(), local_stack.processes(), clients.now())
    st.markdown(
        "\n".join(["| component | status | age | restarts |", "|---|---|--:|--:|", *map(_row, found)])
    )


def _row(component: ComponentHealth) -> str:
    icon, color = page.STATUS_STYLE[component.is_healthy]
    restarts = "–" if component.restarts is None else f"{component.restarts:,}"
    age = age_text(component.age)
    return f"| :{color}[{icon}] {component.name} | {component.status} | {age} | {restarts} |"
