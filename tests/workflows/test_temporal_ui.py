"""What Temporal's UI shows of an order: details, and summaries of timers, activities and shipments."""

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata

from db.domain import ExecutionMode, Reason, State
from orchestrator.messages.activities import Activity, StepStatus
from orchestrator.messages.ids import shipping_workflow_id
from orchestrator.messages.requests import CancelOrder


@pytest.fixture(params=list(ExecutionMode))
def env(fast_env, request):
    return fast_env.executing(request.param)


async def details(handle) -> str:
    metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return metadata.current_details


async def summaries(placed) -> list[str]:
    """Return the summaries of the events of an order's workflow, in their order."""
    converter = placed.env.client.data_converter
    events = (await placed.handle.fetch_history()).events
    payloads = [event.user_metadata.summary for event in events if event.user_metadata.HasField("summary")]
    return await converter.decode(payloads, [str] * len(payloads))


async def test_the_current_details_follow_the_order(env):
    placed = await env.place(hold=(Activity.CHARGE,))
    await placed.wait_until_held(Activity.CHARGE)
    running = await details(placed.handle)
    assert "| State | approved |" in running
    assert "| Step | charge |" in running
    assert "| Time left |" in running
    placed.release(Activity.CHARGE)
    await placed.result()
    finished = await details(placed.handle)
    assert "| State | completed |" in finished
    assert "| Attempts | receive 1, validate 1, charge " in finished
    assert "| Time left |" not in finished
    shipment = env.client.get_workflow_handle(shipping_workflow_id(placed.id, 1))
    assert "| Attempts | prepare 1, dispatch 1 |" in await details(shipment)


async def test_the_current_details_show_an_abort_and_the_error_of_a_gateway(env):
    placed = await env.place({Activity.CHARGE: [StepStatus.DECLINED]})
    result = await placed.result()
    assert result.reason is Reason.PAYMENT_DECLINED
    shown = await details(placed.handle)
    assert "| State | failed (payment_declined) |" in shown
    assert "| Gateway errors | charge: scripted declined |" in shown


@pytest.mark.parametrize("execution", ExecutionMode)
async def test_timers_activities_and_shipments_have_summaries(real_env, execution):
    placed = await real_env.executing(execution).place(auto_review_seconds=0.1)
    await placed.result()
    found = await summaries(placed)
    assert {"deadline", "auto review", f"shipment 1 of order {placed.id}", "completed"} <= set(found)
    if execution is ExecutionMode.FAST:
        assert {"open, receive, validate", "approve, charge"} <= set(found)
    else:
        assert len([text for text in found if text.startswith("no attempt after ")]) == 3


async def test_texts_of_customers_are_in_no_summary(env):
    # Temporal would reject a summary of more than 400 bytes, and the workflow would not continue.
    placed = await env.place_in(State.IN_REVIEW)
    await placed.handle.signal("CancelOrder", CancelOrder("a" * 200, "b" * 200))
    await placed.result()
    assert max(len(text) for text in await summaries(placed)) < 100
