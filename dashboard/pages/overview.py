"""Overview: SLO status, pipeline, orders in flight, components and faults."""

from functools import partial

import streamlit as st

from dashboard import page_elements as page
from dashboard.filters import WINDOWS
from dashboard.sections import fault_injection
from dashboard.sections.overview import components, in_flight, pipeline, status

# About the height of the fault injection panel, in pixels. (Streamlit would show a docstring on the page.)
FAULTS_HEIGHT = 220

is_live = page.page_header("Overview", live=True)
page.stop_on_invalid_query("overview")
window = st.segmented_control(
    "Time window", list(WINDOWS), default="5 min", required=True, key="window", bind="query-params"
)
window_seconds = WINDOWS[window or "5 min"]


# One fragment for both: each takes some 20 ms of a refresh.
def status_and_pipeline() -> None:
    status.show(window_seconds)
    pipeline.show(window_seconds)


page.live_fragment(status_and_pipeline, is_live)
# One below the other where the table of components does not fit beside the chart.
with st.grid(2, min_column_width=420, gap="medium"):
    with st.container():
        page.live_fragment(in_flight.show, is_live)
    with st.container():
        page.live_fragment(components.show, is_live)
        page.live_fragment(partial(fault_injection.show, is_live), is_live=False, later=FAULTS_HEIGHT)
        page.page_link("stage", "Show on a stage", icon=":material/slideshow:")
