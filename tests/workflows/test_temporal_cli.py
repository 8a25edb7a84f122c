"""The Temporal CLI sends every request as plain JSON and queries the status."""

import json

import pytest

from db.domain import State
from orchestrator.messages.activities import Activity
from tests.orders import OTHER_ADDRESS
from tests.temporal_server import temporal_workflow
from tests.workflows.conftest import PlacedOrder
from tests.workflows.test_requests import REQUESTS, SIGNALS, in_time, outcome_after


async def temporal(placed: PlacedOrder, *words: str) -> str:
    """Run `temporal workflow ...` on an order's workflow and return its output."""
    address = placed.env.client.service_client.config.target_host
    return await temporal_workflow(address, *words, "--workflow-id", placed.handle.id)


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_signal_from_the_temporal_cli_is_accepted(real_env, name):
    placed = await real_env.place_in(State.IN_REVIEW)
    await temporal(placed, "signal", "--name", SIGNALS[name], "--input", json.dumps(REQUESTS[name]))
    await placed.wait_until(lambda stored: stored.requests)
    assert placed.stored.requests == [(name, True)]
    await placed.resume(State.IN_REVIEW)
    result = await placed.result()
    assert (result.outcome, result.reason) == outcome_after(name, State.IN_REVIEW)
    assert name != "update_address" or placed.stored.label == OTHER_ADDRESS


@pytest.mark.parametrize("state", [State.CHARGED, State.DISPATCHED])
async def test_an_update_from_the_temporal_cli_returns_its_result(real_env, state):
    placed = await real_env.place_in(state)
    words = ("--name", "cancel_order", "--input", json.dumps(REQUESTS["cancel_order"]), "--output", "json")
    printed = await temporal(placed, "update", "execute", *words)
    result = json.loads(printed)["result"]
    assert result["accepted"] == in_time("cancel_order", state)
    await placed.resume(state)
    await placed.result()


async def test_a_signal_from_the_temporal_cli_without_input_is_ignored(real_env):
    placed = await real_env.place_in(State.CHARGED)
    await temporal(placed, "signal", "--name", "CancelOrder")
    await placed.resume(State.CHARGED)
    assert (await placed.result()).outcome is State.COMPLETED


async def test_the_status_query_works_from_the_temporal_cli(real_env):
    placed = await real_env.place(hold=(Activity.CHARGE,))
    await placed.wait_until_held(Activity.CHARGE)
    printed = json.loads(await temporal(placed, "query", "--name", "status", "--output", "json"))
    (status,) = printed["queryResult"]
    assert (status["order_id"], status["current_step"], status["outcome"]) == (placed.id, "charge", None)
    placed.release(Activity.CHARGE)
    await placed.result()
