"""Workflow ids, derived from order ids."""

ORDER_WORKFLOW_PREFIX = "order-"


def order_workflow_id(order_id: str) -> str:
    return ORDER_WORKFLOW_PREFIX + order_id


def reconcile_workflow_id(order_id: str) -> str:
    return f"reconcile-{order_id}"


def shipping_workflow_id(order_id: str, n: int) -> str:
    return f"shipping-{order_id}-{n}"
