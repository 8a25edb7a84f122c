"""Draws the lower part of a page after the browser has drawn the first screen.

The browser draws all elements that it receives together in one step. With the charts below the first screen,
this step would take longer.
"""

from collections.abc import Callable

import streamlit as st

WHEN_DRAWN = st.components.v2.component(
    "when_drawn",
    js="""export default ({ setStateValue }) => {
        const call = window.requestIdleCallback ?? setTimeout
        call(() => setStateValue('is_drawn', true), { timeout: 1000 })
    }""",
)
"""Invisible. Its state `is_drawn` gets true when the browser has nothing more to draw. (Safari has no
requestIdleCallback.)"""


def draw_later(key: str, height: int, body: Callable[[], None]) -> None:
    """Draw `body` once the browser has drawn what it has received; until then a placeholder of this height.

    A refresh, or other filters, then draw `body` at once. `key` is unique on the page. In a fragment, only
    the fragment runs again.
    """
    # The CSS of all pages hides it by the end of its key.
    state = WHEN_DRAWN(
        key=f"{key}-is-drawn", default={"is_drawn": False}, on_is_drawn_change=lambda: None, height=1
    )
    if state["is_drawn"]:
        body()
    else:
        st.skeleton(height)
