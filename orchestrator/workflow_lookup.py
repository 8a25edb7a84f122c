"""What Temporal tells of an order's workflow: what it was started with, and whether it runs.

The reconciler and the audit ask here alike, so that the one does not complain about what the other rightly
takes for no order at all.
"""

from dataclasses import dataclass

import structlog
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.errors import PayloadUnreadable
from orchestrator.messages import DUPLICATE_ORDER, INVALID_ORDER, OrderRequest
from orchestrator.temporal_client import temporal_errors
from orchestrator.workflow_ids import order_workflow_id

NEVER_ORDERS = (DUPLICATE_ORDER, INVALID_ORDER)
"""Types of the errors by which a workflow says itself that it never was an order."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Acceptance:
    """The order that a workflow was started with, and the run in which it was accepted: `first_run_id` is of
    an earlier one when an operator has reset the workflow."""

    order: OrderRequest
    first_run_id: str


async def acceptance_of(client: Client, execution: WorkflowExecution) -> Acceptance | None:
    """What a closed workflow was started with, or None when it never was an order.

    Anybody can start a workflow by hand, with any input or none. One that fails over it says so; one that is
    ended before a worker has looked at it does not. Raises PayloadUnreadable when no key of ours decrypts the
    input, and TemporalUnavailable.
    """
    handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
    with temporal_errors():
        history = await handle.fetch_history()
    failure = history.events[-1].workflow_execution_failed_event_attributes.failure
    if failure.application_failure_info.type in NEVER_ORDERS:
        return None
    started = history.events[0].workflow_execution_started_event_attributes
    try:
        order = await _order_in(client, started)
        problems = order.problems()
    except PayloadUnreadable:
        raise
    except Exception as error:
        # What the converter raises depends on what it was given.
        log.warning("a workflow was started with no order", workflow_id=execution.id, error=repr(error))
        return None
    if execution.id != order_workflow_id(order.order_id):
        problems.append(f"the workflow of order {order.order_id} has another id")
    if problems:
        log.warning(
            "a workflow was started with no order", workflow_id=execution.id, error="; ".join(problems)
        )
        return None
    return Acceptance(order, started.first_execution_run_id)


async def _order_in(client: Client, started: WorkflowExecutionStartedEventAttributes) -> OrderRequest:
    order: OrderRequest
    (order,) = await client.data_converter.decode(started.input.payloads, [OrderRequest])
    return order


async def is_running(client: Client, workflow_id: str) -> bool:
    """Whether the latest run of a workflow runs. Raises TemporalUnavailable."""
    try:
        with temporal_errors():
            execution = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return execution.status is WorkflowExecutionStatus.RUNNING
