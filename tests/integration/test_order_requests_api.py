"""REST API: cancel, address change, approval and rejection of running orders."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import httpx
import pytest

from orchestrator.api.schemas import responses
from tests.integration.problems import is_problem
from tests.live import LiveApi
from tests.orders import ADDRESS, OTHER_ADDRESS

pytestmark = pytest.mark.stack


def test_a_cancelled_order_rejects_all_requests(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    response = live.signal(order_id, "cancel", reason="changed my mind", cancelled_by="customer")
    assert response.status_code == 200
    assert responses.OrderRequestResponse.model_validate(response.json())
    status = live.finished(order_id)
    assert (status["status"], status["reason"]) == ("cancelled", "customer_cancelled")
    assert status["error"] == "customer_cancelled: changed my mind"
    assert status["result"] is None
    before = live.history(order_id)
    for name, request in {
        "cancel": {"reason": "again", "cancelled_by": "customer"},
        "update-address": {"new_address": asdict(OTHER_ADDRESS), "updated_by": "customer"},
        "approve": {"reviewer": "r"},
        "reject": {"reviewer": "r", "reason": "late"},
    }.items():
        too_late = live.signal(order_id, name, **request)
        assert is_problem(too_late, 409)
        assert too_late.json()["detail"] == "too late: the order is cancelled"
    assert live.history(order_id) == before


def test_one_of_two_concurrent_cancels_is_accepted(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    with ThreadPoolExecutor(2) as threads:
        received = list(
            threads.map(
                lambda who: httpx.post(
                    f"{live.url}/orders/{order_id}/signals/cancel",
                    json={"reason": "twice", "cancelled_by": who},
                    timeout=20,
                ),
                ("one", "two"),
            )
        )
    assert sorted(response.status_code for response in received) == [200, 409]
    live.finished(order_id)
    assert [event["kind"] for event in live.history(order_id)].count("outcome") == 1


def test_an_accepted_address_is_dispatched(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    response = live.signal(
        order_id, "update-address", new_address=asdict(OTHER_ADDRESS), updated_by="customer"
    )
    assert response.status_code == 200
    assert live.signal(order_id, "approve", reviewer="r").status_code == 200
    assert live.finished(order_id)["status"] == "completed"
    dispatched = [event for event in live.history(order_id) if event["state"] == "dispatched"]
    assert dispatched[0]["detail"]["address_version"] == 2
    too_late = live.signal(order_id, "update-address", new_address=asdict(ADDRESS), updated_by="customer")
    assert is_problem(too_late, 409)


def test_an_address_change_names_the_version_that_it_replaces(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    status = live.in_state(order_id, "in_review")
    assert status["address_version"] == 1
    change = {"new_address": asdict(OTHER_ADDRESS), "updated_by": "customer", "address_version": 1}
    assert live.signal(order_id, "update-address", **change).status_code == 200
    again = {**change, "updated_by": "another user"}
    outdated = live.signal(order_id, "update-address", **again)
    assert is_problem(outdated, 409)
    assert outdated.json()["detail"] == "the address has changed: it has version 2, not 1"
    status = httpx.get(f"{live.url}/orders/{order_id}/status").json()
    assert (status["address"]["street"], status["address_version"]) == (OTHER_ADDRESS.street, 2)
    assert live.signal(order_id, "update-address", **again | {"address_version": 2}).status_code == 200
    for invalid in (0, -1, 2**31, "1", 1.5, True):
        rejected = live.signal(order_id, "update-address", **change | {"address_version": invalid})
        assert is_problem(rejected, 422)


def test_many_simultaneous_requests_about_one_order_are_all_carried_out(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")

    def change(number: int) -> int:
        address = asdict(replace(OTHER_ADDRESS, street=f"{number} Main Street"))
        return live.signal(
            order_id, "update-address", new_address=address, updated_by=f"customer {number}"
        ).status_code

    with ThreadPoolExecutor(40) as threads:
        assert list(threads.map(change, range(40))) == [200] * 40
    accepted = [event for event in live.history(order_id) if event["kind"] == "signal"]
    assert len(accepted) == 40
    live.signal(order_id, "cancel", reason="end of the test", cancelled_by="tester")


def test_an_approval_is_accepted_once(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    assert live.signal(order_id, "approve", reviewer="one").status_code == 200
    assert is_problem(live.signal(order_id, "approve", reviewer="two"), 409)
    assert is_problem(live.signal(order_id, "reject", reviewer="two", reason="late"), 409)
    assert live.finished(order_id)["status"] == "completed"


def test_a_rejected_order_is_cancelled_and_never_charged(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    assert live.signal(order_id, "reject", reviewer="r", reason="no such street").status_code == 200
    status = live.finished(order_id)
    assert (status["status"], status["reason"]) == ("cancelled", "review_rejected")
    assert status["error"] == "review_rejected: no such street"
    assert "charge" not in {event["step"] for event in live.history(order_id)}
