"""One request to the API for each of many orders, in threads that a rerun of the page does not interrupt."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import streamlit as st

from dashboard.data import clients
from orchestrator.errors import OrderSystemError, Overloaded

PARALLEL_REQUESTS = 8
MAX_PAUSE_SECONDS = 30
"""The longest pause after one rejection, also if its Retry-After is longer."""

MAX_REJECTIONS = 20
"""An order counts as failed after this many rejections with status 429."""

_BATCH = "order-batch"


class OrderBatch:
    """Sends one request per order. A rejection with status 429 pauses all requests for its Retry-After.

    `name` names the requests, for example "Started". `request` takes an order id and raises OrderSystemError.
    """

    def __init__(self, name: str, order_ids: Sequence[str], request: Callable[[str], object]) -> None:
        self.name = name
        self.order_ids = list(order_ids)
        self.succeeded: list[str] = []
        self.failures: dict[str, OrderSystemError] = {}
        self.paused_until: datetime | None = None
        self._request = request
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="order-batch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send no further request. Requests already sent are completed."""
        self._stopping.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    @property
    def done(self) -> int:
        return len(self.succeeded) + len(self.failures)

    @property
    def pause_seconds(self) -> float:
        """The time until the next request, while the API rejects requests."""
        until = self.paused_until
        return 0.0 if until is None else max((until - clients.now()).total_seconds(), 0.0)

    def problems(self) -> Counter[str]:
        """Return the number of failed orders for each error message."""
        return Counter(str(error) for error in list(self.failures.values()))

    def _run(self) -> None:
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            list(pool.map(self._send, self.order_ids))

    def _send(self, order_id: str) -> None:
        rejected = Overloaded()
        for _ in range(MAX_REJECTIONS):
            # Also ends the pause when the batch is stopped.
            while not self._stopping.is_set() and (pause := self.pause_seconds) > 0:
                self._stopping.wait(pause)
            if self._stopping.is_set():
                return
            try:
                self._request(order_id)
            except Overloaded as error:
                rejected = error
                pause = min(error.retry_after_seconds, MAX_PAUSE_SECONDS)
                self.paused_until = clients.now() + timedelta(seconds=pause)
            except OrderSystemError as error:
                self.failures[order_id] = error
                return
            else:
                self.succeeded.append(order_id)
                return
        self.failures[order_id] = rejected


def start_batch(name: str, order_ids: Sequence[str], request: Callable[[str], object]) -> None:
    """Start a batch, which replaces the last one of this session."""
    batch = OrderBatch(name, order_ids, request)
    st.session_state[_BATCH] = batch
    batch.start()


def current_batch() -> OrderBatch | None:
    """Return the running or the last batch of this session."""
    batch: OrderBatch | None = st.session_state.get(_BATCH)
    return batch


def dismiss_batch() -> None:
    st.session_state.pop(_BATCH, None)
