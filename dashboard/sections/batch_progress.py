"""The progress and the result of the batch of requests that the user started last."""

import streamlit as st

from dashboard.data.order_batches import OrderBatch, current_batch, dismiss_batch
from dashboard.page_elements import live_fragment
from loadtest.charts import plain_text

REFRESH_SECONDS = 0.5


def show() -> None:
    batch = current_batch()
    if batch is None:
        return
    was_running = batch.is_running

    def progress() -> None:
        if current_batch() is None:
            # Closed: a button of a fragment reruns only the fragment.
            return
        _show_progress(batch)
        if was_running and not batch.is_running:
            # Redraw the page, with the new states in the table.
            st.rerun()

    live_fragment(progress, was_running, every=REFRESH_SECONDS)


def _show_progress(batch: OrderBatch) -> None:
    total, succeeded, failed = len(batch.order_ids), len(batch.succeeded), len(batch.failures)
    text = f"{batch.name} {succeeded:,} of {total:,} orders"
    with st.container(border=True, key="order-batch"):
        if batch.is_running:
            st.progress(batch.done / total, text=text)
            if batch.pause_seconds:
                st.caption(f"The API is overloaded. The next request is in {batch.pause_seconds:.0f} s.")
            st.button("Stop", icon=":material/stop_circle:", on_click=batch.stop)
            return
        not_sent = total - succeeded - failed
        if not_sent:
            st.warning(
                f"{text}. Stopped: {not_sent:,} requests were not sent.", icon=":material/stop_circle:"
            )
        elif failed:
            st.warning(f"{text}.", icon=":material/warning:")
        else:
            st.success(f"{text}.", icon=":material/check_circle:")
        for problem, times in batch.problems().items():
            shown = plain_text.markdown(problem[:1].upper() + problem[1:])
            st.error(shown if times == 1 else f"{shown} ({times:,} orders)", icon=":material/error:")
        st.button("Close", icon=":material/close:", on_click=dismiss_batch)
