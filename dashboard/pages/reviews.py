"""Review desk: orders that wait for a person, the most urgent first."""

import streamlit as st

from dashboard import plain_text
from dashboard.data import clients
from dashboard.data import live_data as readings
from dashboard.layout import answered, head, nothing_yet, refreshing
from dashboard.view_models.reviews import contents, time_to_decide
from db.database import Row
from orchestrator.security.key_hashing import Role

SHOWN = 25
DESK = "review-desk"
is_live = head("Review desk", live=True)
st.text_input("Your name", "reviewer", key="reviewer", max_chars=80)


def desk() -> None:
    """One card an order, each with its two buttons."""
    waiting = readings.waiting_for_a_person(SHOWN)
    if not waiting:
        nothing_yet("Nobody waits for a review", "Start an order with review manual on the page Orders.")
        return
    st.caption(f"{len(waiting)} waiting" if len(waiting) < SHOWN else f"The {SHOWN} most urgent")
    for order in waiting:
        card(order)


def card(order: Row) -> None:
    """An order in brief, the seconds that are left, and what one may decide."""
    order_id = order["order_id"]
    left, whole = time_to_decide(order)
    with st.container(border=True, key=f"card-{order_id}"):
        what, time, buttons = st.columns([4, 3, 3], vertical_alignment="center")
        with what:
            st.markdown(f"**{plain_text.markdown(order_id)}**  {order['amount_cents'] / 100:,.2f}")
            st.text(contents(order))
        time.progress(min(left / whole, 1.0), text=f"{left:.0f} s left")
        if not readings.viewer_may(Role.OPERATOR):
            return
        with buttons.container(horizontal=True, horizontal_alignment="right"):
            st.button(
                "Approve",
                key=f"approve-{order_id}",
                type="primary",
                icon=":material/thumb_up:",
                on_click=approve,
                args=(order_id,),
            )
            st.button(
                "Reject",
                key=f"reject-{order_id}",
                icon=":material/thumb_down:",
                on_click=reject,
                args=(order_id,),
            )


def approve(order_id: str) -> None:
    """Approves in the viewer's name."""
    who = st.session_state["reviewer"]
    answered(DESK, lambda: clients.api().approve(order_id, who), "Accepted: the order is approved.")
    readings.waiting_for_a_person.clear()


def reject(order_id: str) -> None:
    """Rejects in the viewer's name."""
    who = st.session_state["reviewer"]
    answered(
        DESK,
        lambda: clients.api().reject(order_id, who, "rejected at the review desk"),
        "Accepted: the order is rejected.",
    )
    readings.waiting_for_a_person.clear()


refreshing(desk, is_live, every=1.0, answers_of=DESK)
