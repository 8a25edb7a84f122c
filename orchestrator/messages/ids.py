"""Ids of workflows and names of task queues that follow from others."""

ORDER_WORKFLOW_PREFIX = "order-"


def order_workflow_id(order_id: str) -> str:
    return ORDER_WORKFLOW_PREFIX + order_id


def order_id_of(workflow_id: str) -> str:
    """Return the order id in the workflow id of an OrderWorkflow."""
    return workflow_id.removeprefix(ORDER_WORKFLOW_PREFIX)


def reconcile_workflow_id(order_id: str) -> str:
    return f"reconcile-{order_id}"


def compensation_task_queue(order_task_queue: str) -> str:
    return f"{order_task_queue}-compensation"


def shipping_workflow_id(order_id: str, n: int) -> str:
    return f"shipping-{order_id}-{n}"
