"""One order: its status, the requests it accepts, its timeline, and its records."""

from collections.abc import Callable, Mapping
from datetime import UTC
from functools import partial

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import clients
from dashboard.data.api_reads import user_may
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.view_models import order_requests, order_tables
from dashboard.view_models.field_errors import field_errors
from db.currencies import money_text
from db.database import Row
from db.domain import DEFAULT_COUNTRY
from db.read_models import order_search
from db.read_models.order_search import OrderDetails
from loadtest.charts import plain_text
from loadtest.charts.order.time_parts import explanation, order_time
from loadtest.charts.order.timeline import timeline
from orchestrator.errors import RequestMalformed
from orchestrator.messages.ids import order_workflow_id
from orchestrator.security.key_hashing import Role

ADDRESS_FIELDS = {
    "street": "Street",
    "street2": "Second line",
    "city": "City",
    "state": "State",
    "zip": "Zip",
    "country": "Country",
}
NAME_FIELDS = ("cancelled_by", "updated_by")


def show(order_id: str) -> None:
    """Draw the page, which refreshes until the order has its outcome."""
    if st.button("All orders", icon=":material/arrow_back:"):
        del st.query_params["order"]
        st.rerun()
    details = order_search.order_details(clients.database(), order_id)
    is_running = details is None or details.order["finished_at"] is None
    is_live = page.page_header(f"Order {plain_text.markdown(order_id)}", live=is_running)
    if details is None:
        page.live_fragment(partial(_wait_for, order_id), is_live, every=1.0)
        return

    def order() -> None:
        current = order_search.order_details(clients.database(), order_id)
        if current is None:
            return
        _show_status(current)
        st.markdown(plain_text.markdown(explanation(current)))
        _show_requests(current)
        _show_timeline(current)
        _show_records(current)
        if is_running and current.order["finished_at"] is not None:
            # Redraw the whole page, now without refresh.
            st.rerun()

    page.live_fragment(order, is_live, every=1.0, result_key=order_id)


def _wait_for(order_id: str) -> None:
    if order_search.order_details(clients.database(), order_id) is not None:
        st.rerun()
    page.empty_state("Order not found.", "A new order can take a moment to appear.")


def _show_status(details: OrderDetails) -> None:
    order = details.order
    attempts, failed = order_requests.attempt_counts(details)
    limit = (order["limit_at"] - order["accepted_at"]).total_seconds()
    elapsed_ms = (order["read_at"] - order["accepted_at"]).total_seconds() * 1000
    in_time = {True: "within the limit", False: "late", None: f"of {limit:g} s"}[order["within_limit"]]
    if order["finished_at"] is None and order["read_at"] > order["limit_at"]:
        in_time = "late"
    reason = (order["abort_reason"] or "").replace("_", " ")
    accepted_at = order["accepted_at"].astimezone(UTC)
    metrics = [
        ("State", order["state"].replace("_", " "), reason or order["current_step"] or "done"),
        ("Time", page.seconds(order["completion_ms"] or elapsed_ms), in_time),
        ("Attempts", f"{attempts}", f"{failed} failed"),
        ("Amount", money_text(order["amount_cents"], order["currency"]), f"review {order['review']}"),
        ("Accepted", f"{accepted_at:%H:%M:%S}", f"{accepted_at:%Y-%m-%d} UTC"),
    ]
    page.metric_grid(metrics)


def _show_requests(details: OrderDetails) -> None:
    order = details.order
    order_id = order["order_id"]
    is_allowed = order["finished_at"] is None and user_may(Role.OPERATOR)
    with st.container(horizontal=True, vertical_alignment="center", key="requests"):
        if is_allowed and order_requests.can_be_cancelled(order):
            _cancel_form(order_id)
            _address_form(order_id, order["address"], order["address_version"])
        if is_allowed and order_requests.can_be_approved(details):
            st.button("Approve", icon=":material/thumb_up:", on_click=_approve, args=(order_id,))
        if is_allowed and order_requests.can_be_rejected(order):
            st.button("Reject", icon=":material/thumb_down:", on_click=_reject, args=(order_id,))
        _show_links(order)


def _show_links(order: Row) -> None:
    settings, run_id = clients.settings(), order["run_id"]
    if run_id is not None:
        page.page_link("load_tests", "Run", icon=":material/fitness_center:", run=run_id)
        page.page_link("audit", "Audit of the run", icon=":material/fact_check:", run=run_id)
    # An external Temporal has a UI only where the settings name one.
    if settings.uses_embedded_temporal or settings.temporal_ui_origin is not None:
        st.link_button(
            "Open in Temporal UI",
            f"{settings.temporal_ui_origins[0]}/namespaces/{settings.temporal_namespace}"
            f"/workflows/{order_workflow_id(order['order_id'])}/{order['workflow_run_id']}/history",
            icon=":material/open_in_new:",
        )


def _cancel_form(order_id: str) -> None:
    fields = {
        "reason": ("Reason", "requested by the customer"),
        "cancelled_by": ("Cancelled by", "dashboard"),
    }

    def cancel(values: dict[str, str]) -> None:
        clients.api().cancel(order_id, **values)

    with st.popover("Cancel", icon=":material/cancel:"):
        _form(f"cancel-{order_id}", fields, "Cancel order", order_id, cancel, "Cancellation accepted.")


def _address_form(order_id: str, address: Mapping[str, str], version: int) -> None:
    fields = {
        name: (label, address.get(name, DEFAULT_COUNTRY if name == "country" else ""))
        for name, label in ADDRESS_FIELDS.items()
    }

    def change(values: dict[str, str]) -> None:
        user = values.pop("updated_by")
        clients.api().change_address(order_id, values, user, version)

    with st.popover("Change address", icon=":material/edit_location:"):
        # With the version in its key, the form shows the new address after a change by another user, and
        # never sends the previous one.
        key = f"address-{order_id}-{version}"
        fields["updated_by"] = ("Changed by", "dashboard")
        _form(key, fields, "Save address", order_id, change, "Address changed.")


def _form(
    key: str,
    fields: Mapping[str, tuple[str, str]],
    button: str,
    order_id: str,
    action: Callable[[dict[str, str]], None],
    success: str,
) -> None:
    """Draw a form of text fields (label and first value by name), each with its error below it.

    A field keeps its content, and the button its callback, while `key` is the same.
    """
    errors_key = f"{key}-errors"
    errors: dict[str, str] = st.session_state.get(errors_key, {})

    def send() -> None:
        st.session_state[errors_key] = {}
        try:
            action({name: page.entered(f"{key}-{name}") for name in fields})
        except RequestMalformed as error:
            st.session_state[errors_key] = field_errors(error, fields)
            raise

    with st.form(key, border=False):
        for name, (label, value) in fields.items():
            with page.field_with_error(name, errors):
                draw = page.name_field if name in NAME_FIELDS else st.text_input
                draw(label, value, key=f"{key}-{name}")
        st.form_submit_button(
            button, type="primary", on_click=lambda: page.run_action(order_id, send, success)
        )


def _approve(order_id: str) -> None:
    page.run_action(order_id, lambda: clients.api().approve(order_id, "dashboard"), "Order approved.")


def _reject(order_id: str) -> None:
    reason = "rejected in the dashboard"
    page.run_action(order_id, lambda: clients.api().reject(order_id, "dashboard", reason), "Order rejected.")


def _show_timeline(details: OrderDetails) -> None:
    if not details.has_all_events:
        st.info("The events of this order have been deleted after the retention period.")
        return
    page.chart(
        timeline(details, page.palette()),
        "timeline",
        "Attempts, waiting times and requests of the order, in seconds since its acceptance",
    )


def _show_records(details: OrderDetails) -> None:
    titles = ["Payment and shipment", "Content", "Events"]
    run_id = details.order["run_id"]
    tabs = st.tabs([*titles, "Median order of the run"] if run_id is not None else titles)
    with tabs[0]:
        st.dataframe(
            order_tables.payment_and_shipment(details),
            hide_index=True,
            key="payment-and-shipment",
            alt="Payment and shipment of the order",
        )
    with tabs[1]:
        st.json({"address": details.order["address"], "items": details.order["items"]})
    with tabs[2]:
        st.dataframe(
            order_tables.events(details),
            hide_index=True,
            placeholder="",
            key="events",
            alt="Events of the order, oldest first",
        )
        read_at = details.order["read_at"].astimezone(UTC)
        st.caption(f"{len(details.events)} events, read at {read_at:%H:%M:%S} UTC")
    if run_id is not None:
        with tabs[3]:
            _show_comparison(details, run_id)


def _show_comparison(details: OrderDetails, run_id: str) -> None:
    median = cached(order_search.median_order, CHART_SECONDS)(run_id)
    if median is None:
        page.empty_state("No finished order in this run", "The comparison follows with its first outcome.")
        return
    if median["order_id"] == details.order["order_id"]:
        st.caption("This order has the median completion time of its run.")
        return
    st.caption("The order of the run with the median completion time:")
    page.page_link("orders", median["order_id"], order=median["order_id"])
    seconds = st.column_config.NumberColumn(format="%.3f s")
    st.dataframe(
        order_tables.comparison(order_time(details), median),
        hide_index=True,
        key="comparison",
        alt="Times of this order and of the median order of its run",
        column_config={
            "this order": seconds,
            "median order": seconds,
            "difference": st.column_config.NumberColumn(format="%+.3f s"),
        },
    )
