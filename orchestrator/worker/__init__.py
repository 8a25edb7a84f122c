"""Worker processes: they poll a task queue and execute its workflows and activities."""

from enum import StrEnum


class WorkerKind(StrEnum):
    """The task queues that a worker process polls."""

    ORDER = "order"
    SHIPPING = "shipping"
    ALL = "all"
