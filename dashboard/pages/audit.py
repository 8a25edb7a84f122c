"""Audit: the nine invariants as they stand, and the rows that show each violation."""

from functools import partial

import streamlit as st

from dashboard import plain_text
from dashboard.data import chart_data, clients
from dashboard.data import live_data as readings
from dashboard.data.audit_jobs import audit_jobs
from dashboard.layout import failures_told, head, nothing_yet, refreshing, sentence
from dashboard.view_models.invariants import InvariantState, as_file, states_of
from db.audit import INVARIANTS

SHOWN_VIOLATIONS = 20
NOTHING = ""
_SEEN = "audit-seen"

is_live = head("Audit", live=True)


def choose() -> str | None:
    """The run to audit, or None for everything."""
    runs = [row["run_id"] for row in chart_data.run_names()]
    return st.selectbox(
        "Audit",
        runs,
        index=None,
        key="run",
        bind="query-params",
        placeholder="all orders",
        accept_new_options=True,
    )


def begin(run_id: str | None) -> None:
    """Begins an audit as this viewer."""
    audit_jobs().begin(clients.api(), run_id)


def begin_at_sight(run_id: str | None) -> None:
    """Begins one for a viewer who has just come, or has just chosen this run."""
    if st.session_state.get(_SEEN, NOTHING) != run_id:
        st.session_state[_SEEN] = run_id
        audit_jobs().begin_at_sight(clients.api(), run_id, readings.last_finished_at())


def report(run_id: str | None) -> None:
    """The state of an audit: under way, failed, or its finding."""
    state = audit_jobs().look(run_id)
    if state.is_under_way:
        st.info(f"Auditing for {state.seconds:.0f} s", icon=":material/hourglass_top:")
    else:
        label = "Audit again" if state.report or state.error else "Audit now"
        st.button(label, icon=":material/fact_check:", on_click=begin, args=(run_id,))
    if state.error is not None:
        st.error(sentence(state.error), icon=":material/cloud_off:")
    if state.report is None:
        nothing_yet(
            "Not audited yet",
            "An audit holds our books, the provider's ledger and Temporal's closed workflows against "
            "each other. Over a long history that takes minutes; over a single run, seconds.",
        )
        for number, text in INVARIANTS.items():
            st.markdown(f"{number}. {text}")
        return
    found = state.report
    st.caption(
        f"{found['judged']:,} orders judged, {found['open']:,} still running, {found['late']:,} late, "
        f"{found['workflows_checked']:,} workflows compared; "
        f"read at {state.at:%H:%M:%S} UTC in {state.seconds:.1f} s"
    )
    if found.get("without_events"):
        st.caption(
            f"{found['without_events']:,} of them were accepted before {found['events_since']}, and "
            "their events have been dropped: of these, invariants 1, 2, 6, 7 and 9 are not judged."
        )
    st.download_button(
        "The whole report as JSON",
        data=partial(as_file, found),
        file_name=f"audit-{run_id}.json" if run_id else "audit.json",
        mime="application/json",
        on_click="ignore",
        icon=":material/download:",
    )
    for invariant in states_of(found):
        _invariant(invariant)


def _invariant(invariant: InvariantState) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(
            invariant.finding,
            icon=":material/check_circle:" if invariant.holds else ":material/error:",
            color="green" if invariant.holds else "red",
        )
        st.markdown(f"{invariant.number}. {plain_text.markdown(invariant.text)}", width="content")
    for violation in invariant.violations[:SHOWN_VIOLATIONS]:
        with st.expander(plain_text.markdown(f"{violation.order_id}: {violation.finding}")):
            st.json(violation.witness)
    if len(invariant.violations) > SHOWN_VIOLATIONS:
        st.caption(
            f"{SHOWN_VIOLATIONS} of {len(invariant.violations):,} are shown; "
            "all of them are in the report as JSON."
        )


with failures_told("audit"):
    chosen = choose()
    begin_at_sight(chosen)
    refreshing(partial(report, chosen), is_live, every=1.0)
