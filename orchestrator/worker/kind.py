"""The kinds of worker processes."""

from enum import StrEnum


class WorkerKind(StrEnum):
    """Which task queues a worker process polls."""

    ORDER = "order"
    SHIPPING = "shipping"
    ALL = "all"

    @property
    def polls_orders(self) -> bool:
        return self in (WorkerKind.ORDER, WorkerKind.ALL)

    @property
    def polls_shipping(self) -> bool:
        return self in (WorkerKind.SHIPPING, WorkerKind.ALL)
