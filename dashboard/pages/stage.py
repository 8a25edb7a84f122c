"""Stage: the orders in flight move towards their limit in full screen, for presenters."""

from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from dashboard import page_elements as page
from dashboard import stage
from dashboard.data import clients
from dashboard.filters import COUNTERS
from dashboard.sections import fault_injection
from dashboard.stage.document import stage_document
from dashboard.stage.live_data import PATH

# In pixels, until page.css applies. Without a height, Streamlit adds a script that the document refuses.
HEIGHT = 600

SINCE_OPENED, LAST_HOUR = COUNTERS

st.html(Path(page.__file__).with_suffix(".css"))
st.html(Path(stage.__file__).with_name("page.css"))
st.html('<h1 class="stage-title">Stage</h1>')
page.stop_on_invalid_query("stage")

opened_at = st.session_state.setdefault("stage-opened-at", clients.now())
settings = clients.settings()
picture = st.container(key="picture")
with st.container(horizontal=True, vertical_alignment="center"):
    page.page_link("overview", "Overview", icon=":material/arrow_back:")
    counted = st.segmented_control(
        "Counters",
        COUNTERS,
        default=SINCE_OPENED,
        required=True,
        key="counters",
        bind="query-params",
        label_visibility="collapsed",
        help="The counters cover the last hour at most.",
    )
    page.live_fragment(fault_injection.show_active_profile, True, result_key=fault_injection.RESULT_KEY)
fault_injection.buttons()
query = "" if counted == LAST_HOUR else "?" + urlencode({"since": opened_at.isoformat()})
with picture:
    st.iframe(
        stage_document(
            f"{settings.dashboard_base_path}{PATH}{query}",
            settings.order_deadline_seconds,
            st.context.theme.type,
        ),
        height=HEIGHT,
        alt="Orders in flight moving towards their limit, and the counters of orders",
    )
