"""Batches of requests to the API: every order once, pauses after rejections, and the stop."""

import threading

import pytest

from dashboard.data import clients, order_batches
from dashboard.data.order_batches import OrderBatch
from orchestrator.errors import Overloaded, TooLate

IDS = [f"o-{number}" for number in range(40)]


def finished(batch: OrderBatch) -> OrderBatch:
    batch.start()
    batch.join(20)
    assert not batch.is_running
    return batch


def test_each_order_has_one_request():
    sent = []
    batch = finished(OrderBatch("Started", IDS, sent.append))
    assert sorted(sent) == sorted(batch.succeeded) == sorted(IDS)
    assert (batch.done, batch.problems()) == (40, {})


def test_a_failed_order_does_not_end_the_batch():
    def fail_some(order_id: str) -> None:
        if order_id.endswith("3"):
            raise TooLate("too late")

    batch = finished(OrderBatch("Cancelled", IDS, fail_some))
    assert (len(batch.succeeded), batch.problems()) == (36, {"too late": 4})


def test_a_rejection_pauses_all_requests_for_its_retry_after(monkeypatch):
    monkeypatch.setattr(order_batches, "PARALLEL_REQUESTS", 1)
    at = []

    def reject_the_second(order_id: str) -> None:
        at.append((order_id, clients.now()))
        if len(at) == 2:
            raise Overloaded(retry_after_seconds=1)

    batch = finished(OrderBatch("Started", IDS[:3], reject_the_second))
    assert [order_id for order_id, _ in at] == ["o-0", "o-1", "o-1", "o-2"]
    assert (at[2][1] - at[1][1]).total_seconds() >= 1
    assert len(batch.succeeded) == 3


def test_an_order_that_is_always_rejected_fails(monkeypatch):
    monkeypatch.setattr(order_batches, "MAX_PAUSE_SECONDS", 0)
    requests = []

    def reject(order_id: str) -> None:
        requests.append(order_id)
        raise Overloaded("overloaded", retry_after_seconds=3_600)

    batch = finished(OrderBatch("Started", ["o"], reject))
    assert len(requests) == order_batches.MAX_REJECTIONS
    assert batch.problems() == {"overloaded": 1}


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_stopped_batch_sends_no_further_request(is_paused):
    started, release = threading.Event(), threading.Event()
    sent = []

    def request(order_id: str) -> None:
        sent.append(order_id)
        started.set()
        release.wait(10)
        if is_paused:
            raise Overloaded(retry_after_seconds=60)

    batch = OrderBatch("Started", IDS, request)
    batch.start()
    assert started.wait(10)
    batch.stop()
    release.set()
    batch.join(10)
    assert not batch.is_running
    assert len(sent) <= order_batches.PARALLEL_REQUESTS
    assert batch.done == (0 if is_paused else len(sent))
