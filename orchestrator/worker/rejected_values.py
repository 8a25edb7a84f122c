"""Failures of activities whose value the order database rejects. A retry with the same release fails too."""

from datetime import timedelta
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from db.errors import ValueRejected
from orchestrator.messages.activities import Activity
from orchestrator.messages.orders import INVALID_ORDER
from orchestrator.messages.requests import VALUE_REJECTED
from orchestrator.worker.metrics import WorkerMetrics

RETRY_DELAY = timedelta(seconds=30)
"""For the activities without which an order has no outcome. They succeed with a corrected release."""

_RETRIED = (Activity.ABORT, Activity.RECORD_REQUEST_EVENT, Activity.RECALL, Activity.REFUND, Activity.FINISH)

log = structlog.get_logger()


class RejectedValues(Interceptor):
    """Logs and counts each rejection, and fails the activity as non-retryable or with RETRY_DELAY."""

    def __init__(self, metrics: WorkerMetrics | None = None) -> None:
        self._metrics = metrics or WorkerMetrics()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next, self._metrics)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, metrics: WorkerMetrics) -> None:
        super().__init__(next)
        self._metrics = metrics

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await super().execute_activity(input)
        except ValueRejected as error:
            info = activity.info()
            log.error(
                "value rejected by the database",
                activity=info.activity_type,
                workflow_id=info.workflow_id,
                error=error.cause,
            )
            self._metrics.value_rejected(info.activity_type)
            is_retried = info.activity_type in _RETRIED
            # Without its cause, whose message can contain the row.
            raise ApplicationError(
                str(error),
                type=INVALID_ORDER if info.activity_type == Activity.OPEN else VALUE_REJECTED,
                non_retryable=not is_retried,
                next_retry_delay=RETRY_DELAY if is_retried else None,
            ) from None
