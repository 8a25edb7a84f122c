"""Audit: the nine invariants, and the evidence of each violation."""

import json
from functools import partial

import streamlit as st

from dashboard.data import clients
from dashboard.data.audit_jobs import AuditState, audit_jobs
from dashboard.data.cached import CHART_SECONDS, cached
from dashboard.page_elements import (
    empty_state,
    error_boundary,
    live_fragment,
    page_header,
    page_link,
    select,
    sentence,
    stop_on_invalid_query,
)
from dashboard.view_models.audit_report import Invariant, invariants
from db.maintenance.audit import INVARIANTS
from db.read_models import latency
from loadtest.charts import plain_text

MAX_SHOWN_VIOLATIONS = 20

is_live = page_header("Audit", live=True)
stop_on_invalid_query("audit")


def start_audit(run_id: str | None) -> None:
    audit_jobs().start(clients.api(), run_id)


def show_audit(run_id: str | None) -> None:
    state = audit_jobs().state(run_id)
    if state.is_running:
        st.info(f"Audit running for {state.seconds:.0f} s", icon=":material/hourglass_top:")
        return
    label = "Run again" if state.report or state.error else "Run audit"
    st.button(label, icon=":material/fact_check:", on_click=start_audit, args=(run_id,))
    if state.error is not None:
        st.error(sentence(state.error), icon=":material/cloud_off:")
    if state.report is not None:
        show_report(run_id, state)
        return
    empty_state(
        "No audit yet",
        "An audit compares the order database, the provider records and Temporal's closed workflows. "
        "It takes seconds for one run and minutes for a long history.",
    )
    for number, text in INVARIANTS.items():
        st.markdown(f"{number}. {text}")


def show_report(run_id: str | None, state: AuditState) -> None:
    report = state.report
    assert report is not None
    st.caption(
        f"{report['finished']:,} orders checked, {report['open']:,} still running, {report['late']:,} late, "
        f"{report['workflows_checked']:,} workflow results compared; "
        f"finished at {state.ended_at:%H:%M:%S} UTC after {state.seconds:.1f} s"
    )
    if report.get("without_events"):
        st.caption(
            f"{report['without_events']:,} of these orders were accepted before {report['events_since']}. "
            "Their events have been deleted, so invariants 1, 2, 6, 7 and 9 are not checked for them."
        )
    st.download_button(
        "Download report (JSON)",
        data=partial(json.dumps, report, indent=2, ensure_ascii=False),
        file_name=f"audit-{run_id}.json" if run_id else "audit.json",
        mime="application/json",
        on_click="ignore",
        icon=":material/download:",
    )
    for invariant in invariants(report):
        show_invariant(invariant)


def show_invariant(invariant: Invariant) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(
            invariant.status,
            icon=":material/check_circle:" if invariant.holds else ":material/error:",
            color="green" if invariant.holds else "red",
        )
        st.markdown(f"{invariant.number}. {plain_text.markdown(invariant.text)}", width="content")
    for violation in invariant.violations[:MAX_SHOWN_VIOLATIONS]:
        with st.expander(plain_text.markdown(f"{violation['order_id']}: {violation['finding']}")):
            if violation["order_id"]:
                page_link("orders", "Open the order", order=violation["order_id"])
            st.json(violation["evidence"])
    if len(invariant.violations) > MAX_SHOWN_VIOLATIONS:
        st.caption(
            f"Showing {MAX_SHOWN_VIOLATIONS} of {len(invariant.violations):,} violations. "
            "The downloaded report has all of them."
        )


with error_boundary("audit"):
    runs = [row["run_id"] for row in cached(latency.run_names, CHART_SECONDS)()]
    selected = select("Run", "run", runs, placeholder="all orders", accept_new_options=True)
    live_fragment(partial(show_audit, selected), is_live, every=1.0)
