"""Label, notes and baseline of a load test, and its deletion. The API changes them."""

from collections.abc import Callable, Mapping

import streamlit as st

from dashboard import page_elements as page
from dashboard.data import clients
from dashboard.data.api_reads import user_may
from dashboard.data.cached import cached
from dashboard.sections import running_load_tests
from db.database import Row
from db.domain import MAX_NOTES_LENGTH, MAX_TEXT_LENGTH
from db.read_models import stored_runs
from loadtest.charts import plain_text
from orchestrator.rest_client import Json
from orchestrator.security.key_hashing import Role


def show(run: Row) -> None:
    """Draw the buttons, if the user's key may change runs."""
    if not user_may(Role.OPERATOR):
        return
    run_id = run["run_id"]
    with st.container(horizontal=True):
        with (
            st.popover("Edit label and notes", icon=":material/edit:"),
            st.form("run-properties", border=False),
        ):
            stored = {"label": run["label"] or "", "notes": run["notes"]}
            # With the stored texts in their keys, the fields show what another user has saved meanwhile.
            keys = {name: f"run-{name}-{run_id}-{hash(text)}" for name, text in stored.items()}
            st.text_input("Label", stored["label"], key=keys["label"], max_chars=MAX_TEXT_LENGTH)
            st.text_area("Notes", stored["notes"], key=keys["notes"], max_chars=MAX_NOTES_LENGTH)
            st.caption("The run id stays: the orders of the run have it.")
            st.form_submit_button("Save", type="primary", on_click=_save, args=(run_id, stored, keys))
        pin = "Unpin baseline" if run["is_baseline"] else "Pin as baseline"
        st.button(
            pin,
            icon=":material/push_pin:",
            on_click=_pin,
            args=(run_id, not run["is_baseline"]),
            help="The trend and the comparison of other runs use the pinned baseline.",
        )
        with st.popover("Delete", icon=":material/delete:"):
            st.markdown(
                f"Delete **{plain_text.markdown(run_id)}** with its verdict and its statistics? Its orders "
                "with their events and payments, and its report files, stay. The run id cannot be used again."
            )
            st.button("Delete this run", type="primary", key="delete-run", on_click=_delete, args=(run_id,))


def _save(run_id: str, stored: Mapping[str, str], keys: Mapping[str, str]) -> None:
    """Save the texts that the user has changed."""
    entered = {name: str(st.session_state[key]).strip() for name, key in keys.items()}
    changes: Json = {name: text for name, text in entered.items() if text != stored[name]}
    if changes.get("label") == "":
        changes["label"] = None
    _change(run_id, changes, "Saved.")


def _pin(run_id: str, is_baseline: bool) -> None:
    _change(run_id, {"is_baseline": is_baseline}, "Pinned as the baseline." if is_baseline else "Unpinned.")


def _delete(run_id: str) -> None:
    success = f"Deleted {plain_text.markdown(run_id)}. Its orders stay."
    _run(lambda: clients.api().delete_run(run_id), success)
    result = page.result_of(running_load_tests.RESULT_KEY)
    if result is not None and result.is_accepted:
        page.replace_query("load_tests")


def _change(run_id: str, changes: Json, success: str) -> None:
    _run(lambda: clients.api().change_run(run_id, changes), success)


def _run(action: Callable[[], object], success: str) -> None:
    page.run_action(running_load_tests.RESULT_KEY, action, success)
    cached(stored_runs.newest_runs).clear()
