"""A request whose response was lost is repeated: the response is the first one, with and without a key."""

from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.embedded import Stack
from tests.integration.problems import is_problem
from tests.live import LiveApi, body, new_id
from tests.orders import ADDRESS, OTHER_ADDRESS

pytestmark = pytest.mark.stack

CANCEL = {"reason": "changed my mind", "cancelled_by": "customer"}
ADDRESS_CHANGE = {"new_address": asdict(OTHER_ADDRESS), "updated_by": "customer"}
APPROVE = {"reviewer": "ada"}
REJECT = {"reviewer": "ada", "reason": "no such street"}
REQUESTS = [("cancel", CANCEL), ("approve", APPROVE), ("reject", REJECT), ("update-address", ADDRESS_CHANGE)]
OTHER_CONTENT = {
    "cancel": CANCEL | {"reason": "another reason"},
    "approve": {"reviewer": "bob"},
    "reject": REJECT | {"reviewer": "bob"},
    "update-address": ADDRESS_CHANGE | {"updated_by": "bob"},
}


def send(live: LiveApi, order_id: str, name: str, content: Any, key: str | None = None) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return live.http.post(f"/orders/{order_id}/signals/{name}", json=content, headers=headers)


def in_review(live: LiveApi) -> str:
    order_id = live.start(review="manual")
    live.in_state(order_id, "in_review")
    return order_id


@pytest.mark.parametrize("key", [None, "a-key"])
@pytest.mark.parametrize(("name", "content"), REQUESTS)
def test_a_repeated_request_gets_the_first_response(
    live: LiveApi, name: str, content: dict[str, Any], key: str | None
) -> None:
    order_id = in_review(live)
    first = send(live, order_id, name, content, key)
    assert first.status_code == 200
    assert send(live, order_id, name, content, key).json() == first.json()
    if name == "update-address":
        send(live, order_id, "approve", APPROVE)
    live.finished(order_id)
    before = live.history(order_id)
    after = send(live, order_id, name, content, key)
    assert (after.status_code, after.json()) == (200, first.json())
    assert live.history(order_id) == before
    assert is_problem(send(live, order_id, name, OTHER_CONTENT[name]), 409)


def test_an_early_approval_is_repeatable(live: LiveApi) -> None:
    order_id = live.start(review="manual")
    first = send(live, order_id, "approve", APPROVE)
    live.finished(order_id)
    assert send(live, order_id, "approve", APPROVE).json() == first.json()


def test_a_key_of_another_request_is_refused_in_a_sentence(live: LiveApi) -> None:
    order_id = in_review(live)
    assert send(live, order_id, "update-address", ADDRESS_CHANGE, "k").status_code == 200
    other = ADDRESS_CHANGE | {"new_address": asdict(ADDRESS)}
    reused = send(live, order_id, "update-address", other, "k")
    assert is_problem(reused, 422)
    assert reused.json()["detail"] == "Idempotency-Key was used for another request; use a new key"
    assert is_problem(send(live, order_id, "cancel", CANCEL, "k"), 422)
    assert send(live, order_id, "cancel", CANCEL, "k2").status_code == 200


@pytest.mark.parametrize("key", ["", "a b", "ä", "k" * 256])
def test_a_malformed_key_is_refused(live: LiveApi, key: str) -> None:
    headers = {"Idempotency-Key": key.encode()}
    path = f"/orders/{new_id()}/start"
    assert is_problem(live.http.post(path, json=body(), headers=headers), 422)


def test_an_address_that_was_replaced_is_not_answered_as_current(live: LiveApi) -> None:
    order_id = in_review(live)
    third = ADDRESS_CHANGE | {"new_address": asdict(ADDRESS) | {"street": "3 Third Street"}}
    assert send(live, order_id, "update-address", ADDRESS_CHANGE).status_code == 200
    assert send(live, order_id, "update-address", third).status_code == 200
    send(live, order_id, "approve", APPROVE)
    live.finished(order_id)
    assert is_problem(send(live, order_id, "update-address", ADDRESS_CHANGE), 409)
    assert send(live, order_id, "update-address", third).status_code == 200


def test_a_repeated_change_of_the_address_keeps_its_version(live: LiveApi) -> None:
    order_id = in_review(live)
    for _ in range(2):
        assert send(live, order_id, "update-address", ADDRESS_CHANGE).status_code == 200
    versions = [event["detail"]["address_version"] for event in live.history(order_id)[-2:]]
    assert versions == [2, 2]


def test_a_repeated_start_with_its_key_gets_the_first_response(live: LiveApi) -> None:
    path, headers = f"/orders/{new_id()}/start", {"Idempotency-Key": "first"}
    first = live.http.post(path, json=body(), headers=headers)
    assert first.json()["status"] == "started"
    assert live.http.post(path, json=body(), headers=headers).json() == first.json()
    live.finished(first.json()["order_id"])
    assert live.http.post(path, json=body(), headers=headers).json() == first.json()
    for others in ({}, {"Idempotency-Key": "second"}):
        assert live.http.post(path, json=body(), headers=others).json()["status"] == "already_started"
    other = body(initial_address=asdict(OTHER_ADDRESS))
    assert is_problem(live.http.post(path, json=other, headers=headers), 409)


def test_a_response_is_repeated_after_a_restart_of_the_api(live: LiveApi, live_stack: Stack) -> None:
    order_id = in_review(live)
    first = send(live, order_id, "cancel", CANCEL, "k")
    live_stack.kill("api")
    live_stack.wait_until_healthy(["api"])
    assert send(live, order_id, "cancel", CANCEL, "k").json() == first.json()
    assert send(live, order_id, "cancel", CANCEL).json() == first.json()
