"""What Temporal stores about an order's workflow: its input, and whether it runs.

Shared by the reconciler and the audit, so that both agree on which closed workflow was an order.
"""

from dataclasses import dataclass

import structlog
from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.errors import PayloadUnreadable
from orchestrator.messages.ids import order_workflow_id
from orchestrator.messages.orders import NOT_AN_ORDER, OrderRequest
from orchestrator.temporal.client import temporal_errors

log = structlog.get_logger()


@dataclass(frozen=True)
class StartedOrder:
    """The input of a workflow. `first_run_id` is the run that accepted the order; after an operator's reset
    it differs from the latest run."""

    order: OrderRequest
    first_run_id: str


async def started_order(client: Client, execution: WorkflowExecution) -> StartedOrder | None:
    """Return the order that a closed workflow was started with, or None when the workflow was not an order.

    A workflow can be started by hand with any input or none. If a worker ran it, it failed with one of
    NOT_AN_ORDER; if it was terminated before that, only its input shows it. Raises PayloadUnreadable when
    none of PAYLOAD_KEYS decrypts the input, and TemporalUnavailable.
    """
    handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
    with temporal_errors():
        history = await handle.fetch_history()
    failure = history.events[-1].workflow_execution_failed_event_attributes.failure
    if failure.application_failure_info.type in NOT_AN_ORDER:
        return None
    started = history.events[0].workflow_execution_started_event_attributes
    try:
        order = await _decode_input(client, started)
        errors = order.validation_errors()
    except PayloadUnreadable:
        raise
    except Exception as error:
        # The converter's exceptions depend on the input.
        log.warning("workflow input is not an order", workflow_id=execution.id, error=repr(error))
        return None
    if execution.id != order_workflow_id(order.order_id):
        errors.append(
            f"the workflow id of order {order.order_id} must be {order_workflow_id(order.order_id)}"
        )
    if errors:
        log.warning("workflow input is not an order", workflow_id=execution.id, error="; ".join(errors))
        return None
    return StartedOrder(order, started.first_execution_run_id)


async def _decode_input(client: Client, started: WorkflowExecutionStartedEventAttributes) -> OrderRequest:
    order: OrderRequest
    (order,) = await client.data_converter.decode(started.input.payloads, [OrderRequest])
    return order


async def latest_status(client: Client, workflow_id: str) -> WorkflowExecutionStatus | None:
    """Return the status of a workflow's latest run, or None if Temporal does not know the workflow.

    After an operator's reset, earlier runs are terminated and the order continues in the latest one. Raises
    TemporalUnavailable.
    """
    try:
        with temporal_errors():
            return (await client.get_workflow_handle(workflow_id).describe()).status
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


async def is_running(client: Client, workflow_id: str) -> bool:
    return await latest_status(client, workflow_id) is WorkflowExecutionStatus.RUNNING
