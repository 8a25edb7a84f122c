"""Reviews: orders awaiting a manual review, the most urgent first."""

from datetime import datetime
from functools import partial
from typing import NamedTuple

import streamlit as st

from dashboard.data import clients
from dashboard.data.api_reads import user_may
from dashboard.data.cached import cached
from dashboard.first_screen import draw_later
from dashboard.page_elements import (
    RESULT_VISIBLE,
    empty_state,
    entered,
    live_fragment,
    name_field,
    page_header,
    page_link,
    result_of,
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

# Session state: the time of the last refresh, and its cards.
_CARDS = "review-cards"

awaiting_review = cached(live_orders.orders_awaiting_review)
is_live = page_header("Reviews", live=True)
stop_on_invalid_query("reviews")
name_field("Your name", "reviewer", key="reviewer")


class Card(NamedTuple):
    """An order, and the time since which it does not await a review any more."""

    order: Row
    ended_at: datetime | None = None


def cards() -> None:
    orders = awaiting_review(MAX_CARDS)
    shown = cards_of(orders)
    if not shown:
        empty_state("No orders awaiting review", "Start an order with manual review on the Orders page.")
        return
    st.caption(
        f"{len(orders)} awaiting review" if len(orders) < MAX_CARDS else f"The {MAX_CARDS} most urgent"
    )
    draw_cards(shown[:FIRST_CARDS])
    if rest := shown[FIRST_CARDS:]:
        draw_later("more-cards", CARD_HEIGHT * len(rest), partial(draw_cards, rest))


def cards_of(awaiting: list[Row]) -> list[Card]:
    """Return the cards of the orders awaiting a review, and for some seconds those of the others that were
    shown: when a card vanishes, the next one moves to its place, and a second click would decide it."""
    shown = {order["order_id"]: Card(order) for order in awaiting}
    now = clients.now()
    drawn_at, drawn = st.session_state.get(_CARDS, (now, []))
    for order, ended_at in drawn:
        order_id, since = order["order_id"], ended_at or drawn_at
        has_result = result_of(order_id) is not None
        if order_id not in shown and (has_result or now - since < RESULT_VISIBLE):
            shown[order_id] = Card(order, since)
    cards = sorted(shown.values(), key=lambda card: (card.order["review_until"], card.order["order_id"]))
    st.session_state[_CARDS] = (now, cards)
    return cards


def draw_cards(cards: list[Card]) -> None:
    for card in cards:
        draw_card(card)


def draw_card(card: Card) -> None:
    order, order_id = card.order, card.order["order_id"]
    result = result_of(order_id)
    left, total = review_time(order)
    with st.container(border=True, key=f"card-{order_id}"):
        summary, time, buttons = st.columns([4, 3, 3], vertical_alignment="center")
        with summary:
            with st.container(horizontal=True, vertical_alignment="center"):
                page_link("orders", order_id, order=order_id)
                st.markdown(f"**{money_text(order['amount_cents'], order['currency'])}**")
            st.text(contents(order))
        if result is not None and result.is_accepted:
            buttons.success(result.text, icon=":material/check_circle:")
            return
        if card.ended_at is not None:
            buttons.info("No longer awaiting a review.", icon=":material/block:")
            return
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
        if result is not None:
            buttons.error(result.text, icon=":material/block:")


def approve(order_id: str) -> None:
    api, reviewer = clients.api(), entered("reviewer")
    run_action(order_id, lambda: api.approve(order_id, reviewer), "Approved.")
    awaiting_review.clear()


def reject(order_id: str) -> None:
    api, reviewer = clients.api(), entered("reviewer")
    run_action(order_id, lambda: api.reject(order_id, reviewer, "rejected in the dashboard"), "Rejected.")
    awaiting_review.clear()


live_fragment(cards, is_live, every=1.0)
