"""One order: where it stands, what may still be asked of it, and where its time went."""

from datetime import UTC

import streamlit as st

from dashboard import plain_text
from dashboard.charts.timeline import timeline
from dashboard.data import clients
from dashboard.data import live_data as readings
from dashboard.layout import CHART_CONFIG, answered, head, nothing_yet, palette, refreshing
from dashboard.view_models import order_tables
from dashboard.view_models.slo_status import seconds
from db.database import Row
from db.domain import AttemptOutcome, State
from db.read_models import order_search
from db.read_models.order_search import OrderDetails
from orchestrator.security.key_hashing import Role
from orchestrator.workflow_ids import order_workflow_id

BEFORE_APPROVAL = (State.RECEIVED, State.VALIDATED, State.IN_REVIEW)


def show(order_id: str) -> None:
    """The page; it refreshes while the order runs."""
    if st.button("All orders", icon=":material/arrow_back:"):
        del st.query_params["order"]
        st.rerun()
    file = order_search.order_details(clients.reader(), order_id)
    if file is None:
        _await(order_id)
        return
    runs = file.order["finished_at"] is None
    is_live = head(f"Order {plain_text.markdown(order_id)}", live=runs)

    # The file that was just read is what the first run of the live part shows.
    unseen = [file]

    def body() -> None:
        now = unseen.pop() if unseen else order_search.order_details(clients.reader(), order_id)
        if now is None:
            return
        _standing(now)
        _requests(now)
        if not now.has_all_events:
            st.info("The events of an order this old have been dropped; its books below are whole.")
        else:
            st.plotly_chart(
                timeline(now, palette()),
                key="timeline",
                config=CHART_CONFIG,
                alt="StepRunner, waits and requests of the order over the seconds since its acceptance",
            )
        _database(now)
        if runs and now.order["finished_at"] is not None:
            # Once more as a whole, and then it stands still.
            st.rerun()

    refreshing(body, is_live, every=1.0, answers_of=order_id)


def _await(order_id: str) -> None:
    """In place of an order that the books do not know: one that was just started is there in a moment."""
    is_live = head(f"Order {plain_text.markdown(order_id)}", live=True)

    def nobody() -> None:
        if order_search.order_details(clients.reader(), order_id) is not None:
            st.rerun()
        nothing_yet(
            "The books do not know this order", "If it was started just now, it will be here in a moment."
        )

    refreshing(nobody, is_live, every=1.0)


def may_be_cancelled(order: Row) -> bool:
    """Whether a cancellation or a new address can still succeed."""
    return order["abort_reason"] is None and not State(order["state"]).is_past(State.PREPARED)


def may_be_rejected(order: Row) -> bool:
    """Whether a rejection can still succeed."""
    return order["abort_reason"] is None and State(order["state"]) in BEFORE_APPROVAL


def may_be_approved(file: OrderDetails) -> bool:
    """Whether an approval can still succeed: it cannot where one has come before the review began."""
    is_approved = any(
        event["kind"] == "signal"
        and event["detail"].get("signal") == "approve_order"
        and event["detail"].get("accepted")
        for event in file.events
    )
    return may_be_rejected(file.order) and not is_approved


def attempts_of(file: OrderDetails) -> tuple[int, int]:
    """All attempts so far and those that failed: as counted with the outcome, before that from the events."""
    order = file.order
    if order["attempts"] is not None:
        return order["attempts"], order["failed_attempts"]
    ended = [event["outcome"] for event in file.events if event["kind"] == "attempt"]
    return len(ended) + len(file.under_way), sum(outcome != AttemptOutcome.OK for outcome in ended)


def _standing(file: OrderDetails) -> None:
    order = file.order
    attempts, failed = attempts_of(file)
    limit = (order["deadline_at"] - order["accepted_at"]).total_seconds()
    elapsed_ms = (order["read_at"] - order["accepted_at"]).total_seconds() * 1000
    in_time = {True: "within the limit", False: "late", None: f"of {limit:g} s"}[order["within_limit"]]
    reason = (order["abort_reason"] or "").replace("_", " ")
    cells = [
        ("State", order["state"].replace("_", " "), reason or (order["current_step"] or "done")),
        ("Time", seconds(order["completion_ms"] or elapsed_ms), in_time),
        ("StepRunner", f"{attempts}", f"{failed} failed"),
        ("Amount", f"{order['amount_cents'] / 100:,.2f}", f"review {order['review']}"),
        (
            "Accepted",
            f"{order['accepted_at'].astimezone(UTC):%H:%M:%S}",
            f"{order['accepted_at']:%Y-%m-%d} UTC",
        ),
    ]
    with st.grid(5, min_column_width=150):
        for label, value, below in cells:
            st.metric(label, value, below, delta_color="off", delta_arrow="off", border=True)


def _requests(file: OrderDetails) -> None:
    order = file.order
    order_id = order["order_id"]
    settings = clients.settings()
    may_ask = order["finished_at"] is None and readings.viewer_may(Role.OPERATOR)
    with st.container(horizontal=True, key="requests"):
        if may_ask and may_be_cancelled(order):
            _cancel(order_id)
            _change_address(order_id, order["address"])
        if may_ask and may_be_approved(file):
            _approve(order_id)
        if may_ask and may_be_rejected(order):
            _reject(order_id)
        # Where the UI of somebody else's Temporal is, only its setting can say.
        if settings.uses_embedded_temporal or settings.temporal_ui_origin is not None:
            st.link_button(
                "Temporal's view",
                f"{settings.temporal_ui_origins[0]}/namespaces/{settings.temporal_namespace}"
                f"/workflows/{order_workflow_id(order_id)}/{order['workflow_run_id']}/history",
                icon=":material/open_in_new:",
            )


def _cancel(order_id: str) -> None:
    def ask() -> None:
        reason, who = st.session_state["cancel-reason"], st.session_state["cancelled-by"]
        answered(
            order_id,
            lambda: clients.api().cancel(order_id, reason, who),
            "Accepted: the order is cancelled.",
        )

    with st.popover("Cancel", icon=":material/cancel:"), st.form("cancel-form", border=False):
        st.text_input("Reason", "asked by the customer", key="cancel-reason")
        st.text_input("Cancelled by", "dashboard", key="cancelled-by")
        st.form_submit_button("Cancel the order", type="primary", on_click=ask)


def _change_address(order_id: str, now: Row) -> None:
    names = ("street", "city", "state", "zip")

    def ask() -> None:
        fields = {name: st.session_state[f"new-{name}"] for name in names}
        who = st.session_state["changed-by"]
        answered(
            order_id,
            lambda: clients.api().change_address(order_id, fields, who),
            "Accepted: the address is changed.",
        )

    with st.popover("Change address", icon=":material/edit_location:"), st.form("address-form", border=False):
        for name in names:
            st.text_input(name.capitalize(), now.get(name, ""), key=f"new-{name}")
        st.text_input("Changed by", "dashboard", key="changed-by")
        st.form_submit_button("Change the address", type="primary", on_click=ask)


def _approve(order_id: str) -> None:
    def ask() -> None:
        answered(
            order_id,
            lambda: clients.api().approve(order_id, "dashboard"),
            "Accepted: the order is approved.",
        )

    st.button("Approve", icon=":material/thumb_up:", on_click=ask)


def _reject(order_id: str) -> None:
    def ask() -> None:
        answered(
            order_id,
            lambda: clients.api().reject(order_id, "dashboard", "rejected at the dashboard"),
            "Accepted: the order is rejected.",
        )

    st.button("Reject", icon=":material/thumb_down:", on_click=ask)


def _database(file: OrderDetails) -> None:
    database, content, events = st.tabs(["Money and parcel", "Content", "Events"])
    with database:
        st.dataframe(order_tables.database_beside_provider(file), hide_index=True, key="books")
    with content:
        st.json({"address": file.order["address"], "items": file.order["items"]})
    with events:
        st.dataframe(order_tables.events(file), hide_index=True, placeholder="", key="events")
        st.caption(
            f"Read at {file.order['read_at'].astimezone(UTC):%H:%M:%S} UTC, {len(file.events)} events."
        )
