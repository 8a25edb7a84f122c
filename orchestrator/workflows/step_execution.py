"""How a workflow runs steps and database activities.

A batch of steps runs first in one local activity, inside the workflow task, which saves the server three
writes. While it runs, the workflow handles no signal, so a batch has a time budget. Each step that is not
done within the budget, or whose local activity failed, continues as a regular activity: that one heartbeats,
appears in Temporal's UI and survives its worker. docs/decisions/0002 and 0011 have the measurements.
"""

from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    RetryState,
    TimeoutError,
    is_cancelled_exception,
)

from db.domain import Step
from orchestrator.messages import (
    STEP_ACTIVITIES,
    Activity,
    RequestResult,
    StepBatchRequest,
    StepBatchResult,
    StepRequest,
    StepResult,
    StepStatus,
)

Result = TypeVar("Result")

WORKFLOW_TASK_TIMEOUT = timedelta(seconds=3)

_LOCAL_MARGIN = timedelta(milliseconds=1_500)
"""How long a local activity may take beyond its time budget: a last attempt and the database writes."""

_HEARTBEAT_TIMEOUT = timedelta(seconds=2)
_REMOTE_MARGIN = timedelta(seconds=1)
"""How long a regular activity may take after `not_after`, to report the end of its last attempt."""

_DATABASE_TIMEOUT = timedelta(seconds=5)
_COMPENSATION_TIMEOUT = timedelta(minutes=10)
_NO_RETRY = RetryPolicy(maximum_attempts=1)
_RETRY_FOREVER = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    backoff_coefficient=1.5,
    maximum_interval=timedelta(seconds=1),
)


class StepObserver:
    """Receives the progress of a batch. The methods do nothing; override those that matter."""

    def opened(self) -> None: ...

    def approval_decided(self, result: RequestResult) -> None: ...

    def step_started(self, step: Step) -> None: ...

    def step_done(self, step: Step) -> None: ...


async def run_steps(batch: StepBatchRequest, observer: StepObserver | None = None) -> list[StepResult]:
    """Run the parts of a batch in order, until one does not succeed.

    Returns one result per step that ran; only the last one can be other than DONE, and none is UNFINISHED.
    Returns no result if the approval was refused. Raises ApplicationError only if an activity raised it as
    non-retryable.
    """
    observer = observer or StepObserver()
    local = await _run_batch_locally(batch)
    if batch.open is not None:
        if local is None:
            await _run_remotely(Activity.OPEN, batch.open, bool)
        observer.opened()
    if batch.approve is not None:
        approval = local.approval if local is not None else None
        if approval is None:
            approval = await _run_remotely(Activity.APPROVE, batch.approve, RequestResult)
        observer.approval_decided(approval)
        if not approval.is_approved:
            return []
    local_results = local.steps if local is not None else []
    results: list[StepResult] = []
    for index, step in enumerate(batch.steps):
        observer.step_started(step.step)
        result = local_results[index] if index < len(local_results) else None
        if result is None or result.status is StepStatus.UNFINISHED:
            result = await _run_step_remotely(step)
        results.append(result)
        if result.status is not StepStatus.DONE:
            break
        observer.step_done(step.step)
    return results


async def run_database_activity(activity: Activity, request: Any, result_type: type[Result]) -> Result:
    """Run an activity that only writes to the order database, and retry until the database is available.

    Raises ApplicationError only if the activity raised it as non-retryable.
    """
    result = await _run_locally(activity, request, result_type, _LOCAL_MARGIN)
    return await _run_remotely(activity, request, result_type) if result is None else result


async def _run_batch_locally(batch: StepBatchRequest) -> StepBatchResult | None:
    timeout = timedelta(seconds=batch.time_budget_seconds) + _LOCAL_MARGIN
    try:
        return await _run_locally(Activity.RUN_STEP_BATCH, batch, StepBatchResult, timeout)
    except ApplicationError:
        # Non-retryable: as a regular activity it is raised again, by the part that it belongs to.
        return None


async def _run_locally(
    activity: Activity, request: Any, result_type: type[Result], timeout: timedelta
) -> Result | None:
    """Return the result of one local attempt, or None if it failed and a regular activity must follow."""
    try:
        result: Result = await workflow.execute_local_activity(
            activity,
            request,
            result_type=result_type,
            start_to_close_timeout=timeout,
            retry_policy=_NO_RETRY,
        )
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        # A local activity's own error arrives unwrapped, its timeout wrapped in an ActivityError.
        cause = error.cause if isinstance(error, ActivityError) else error
        if isinstance(cause, ApplicationError) and cause.non_retryable:
            raise cause from error
        workflow.logger.warning("local %s failed, retrying as a regular activity: %s", activity, cause)
        return None
    return result


async def _run_remotely(activity: Activity, request: Any, result_type: type[Result]) -> Result:
    try:
        result: Result = await workflow.execute_activity(
            activity,
            request,
            result_type=result_type,
            start_to_close_timeout=_DATABASE_TIMEOUT,
            retry_policy=_RETRY_FOREVER,
        )
    except ActivityError as error:
        if isinstance(error.cause, ApplicationError):
            raise error.cause from error
        raise
    return result


async def _run_step_remotely(request: StepRequest) -> StepResult:
    time_left = None
    if request.not_after is not None:
        time_left = max(request.not_after - workflow.now(), timedelta(0)) + _REMOTE_MARGIN
    try:
        result: StepResult = await workflow.execute_activity(
            STEP_ACTIVITIES[request.step],
            request,
            result_type=StepResult,
            schedule_to_close_timeout=time_left,
            start_to_close_timeout=time_left or _COMPENSATION_TIMEOUT,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT,
            retry_policy=_RETRY_FOREVER,
        )
    except ActivityError as error:
        # If no worker finished the step in time, the cause is a TimeoutError. If every attempt failed until
        # the time was over (for example while the database was unavailable), it is the last attempt's error.
        if isinstance(error.cause, TimeoutError) or error.retry_state is RetryState.TIMEOUT:
            return StepResult(StepStatus.OUT_OF_TIME)
        if isinstance(error.cause, ApplicationError):
            raise error.cause from error
        raise
    return result
