"""Reviews: orders awaiting a manual review, the most urgent first."""

from functools import partial

import streamlit as st

from dashboard.data import clients
from dashboard.data.api_reads import user_may
from dashboard.data.cached import cached
from dashboard.first_screen import draw_later
from dashboard.page_elements import (
    empty_state,
    entered,
    live_fragment,
    name_field,
    page_header,
    page_link,
    run_action,
    stop_on_invalid_query,
)
from dashboard.view_models.review_cards import contents, review_time
from db.currencies import money_text
from db.database import Row
from db.read_models import live_orders
from orchestrator.security.key_hashing import Role

MAX_CARDS = 25
FIRST_CARDS = 8
# Of a card in a wide window, in pixels, with the gap below it.
CARD_HEIGHT = 120
RESULT_KEY = "reviews"

awaiting_review = cached(live_orders.orders_awaiting_review)
is_live = page_header("Reviews", live=True)
stop_on_invalid_query("reviews")
name_field("Your name", "reviewer", key="reviewer")


def cards() -> None:
    orders = awaiting_review(MAX_CARDS)
    if not orders:
        empty_state("No orders awaiting review", "Start an order with manual review on the Orders page.")
        return
    st.caption(
        f"{len(orders)} awaiting review" if len(orders) < MAX_CARDS else f"The {MAX_CARDS} most urgent"
    )
    draw_cards(orders[:FIRST_CARDS])
    if rest := orders[FIRST_CARDS:]:
        draw_later("more-cards", CARD_HEIGHT * len(rest), partial(draw_cards, rest))


def draw_cards(orders: list[Row]) -> None:
    for order in orders:
        card(order)


def card(order: Row) -> None:
    order_id = order["order_id"]
    left, total = review_time(order)
    with st.container(border=True, key=f"card-{order_id}"):
        summary, time, buttons = st.columns([4, 3, 3], vertical_alignment="center")
        with summary:
            with st.container(horizontal=True, vertical_alignment="center"):
                page_link("orders", order_id, order=order_id)
                st.markdown(f"**{money_text(order['amount_cents'], order['currency'])}**")
            st.text(contents(order))
        time.progress(min(left / total, 1.0), text=f"{left:.0f} s left")
        if not user_may(Role.OPERATOR):
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
    api, reviewer = clients.api(), entered("reviewer")
    run_action(RESULT_KEY, lambda: api.approve(order_id, reviewer), "Order approved.")
    awaiting_review.clear()


def reject(order_id: str) -> None:
    api, reviewer = clients.api(), entered("reviewer")
    run_action(
        RESULT_KEY, lambda: api.reject(order_id, reviewer, "rejected in the dashboard"), "Order rejected."
    )
    awaiting_review.clear()


live_fragment(cards, is_live, every=1.0, result_key=RESULT_KEY)
