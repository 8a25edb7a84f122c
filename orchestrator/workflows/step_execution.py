"""How a workflow has a step carried out.

A step is first tried as a local activity, inside the workflow task, which spares the server three writes;
steps that follow each other without a wait, all in one. While it runs, the workflow hears no signal; so the
caller names its patience, and a step that is not done by then, or whose local activity fails, goes on as a
regular activity, which heartbeats, shows in Temporal's UI and survives its worker. docs/decisions/0002 and
0011 have the measurements.
"""

from collections.abc import Sequence
from dataclasses import replace
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

from orchestrator.messages import (
    Activity,
    StepBatchRequest,
    StepBatchResult,
    StepRequest,
    StepResult,
    StepStatus,
)

Result = TypeVar("Result")

WORKFLOW_TASK_TIMEOUT = timedelta(seconds=3)

_LOCAL_MARGIN = timedelta(milliseconds=1_500)
_HEARTBEAT_TIMEOUT = timedelta(seconds=2)
_HANDOVER_MARGIN = timedelta(seconds=1)
_BOOKS_TIMEOUT = timedelta(seconds=5)
_COMPENSATION_TIMEOUT = timedelta(minutes=10)
_ONCE = RetryPolicy(maximum_attempts=1)
_UNTIL_IT_WORKS = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    backoff_coefficient=1.5,
    maximum_interval=timedelta(seconds=1),
)


async def carry_out(activity: Activity, request: StepRequest, time_budget: timedelta) -> StepResult:
    """Tries a step until it is done, declined, aborted or out of time; a compensation until it is done.

    For as long as `patience` the workflow itself is kept busy by it.
    """
    hasty = replace(request, time_budget_seconds=time_budget.total_seconds())
    result = await _tried_locally(activity, hasty, StepResult, time_budget + _LOCAL_MARGIN)
    if result is not None and result.status is not StepStatus.UNFINISHED:
        return result
    return await carry_on(activity, request)


async def advance(request: StepBatchRequest) -> StepBatchResult | None:
    """Does several parts of an order in one go; None when that failed on the way, and each part is to be
    done, or found done, by itself.

    For as long as its patience the workflow itself is kept busy by it. Raises ApplicationError only for what
    an activity calls non-retryable.
    """
    time_budget = timedelta(seconds=request.time_budget_seconds)
    return await _tried_locally(
        Activity.RUN_STEP_BATCH, request, StepBatchResult, time_budget + _LOCAL_MARGIN
    )


async def write(activity: Activity, request: Any, result_type: type[Result]) -> Result:
    """Has something written to the books, however long they are away.

    Raises ApplicationError only for what the activity calls non-retryable.
    """
    result = await _tried_locally(activity, request, result_type, _LOCAL_MARGIN)
    return await write_on(activity, request, result_type) if result is None else result


async def write_on(activity: Activity, request: Any, result_type: type[Result]) -> Result:
    """As `write`, of what failed in the workflow task already."""
    try:
        remote: Result = await workflow.execute_activity(
            activity,
            request,
            result_type=result_type,
            start_to_close_timeout=_BOOKS_TIMEOUT,
            retry_policy=_UNTIL_IT_WORKS,
        )
    except ActivityError as error:
        if isinstance(error.cause, ApplicationError):
            raise error.cause from error
        raise
    return remote


async def _tried_locally(
    activity: Activity, request: Any, result_type: type[Result], timeout: timedelta
) -> Result | None:
    try:
        result: Result = await workflow.execute_local_activity(
            activity,
            request,
            result_type=result_type,
            start_to_close_timeout=timeout,
            retry_policy=_ONCE,
        )
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        # A local activity's own error arrives bare, its timeout wrapped in an ActivityError.
        cause = error.cause if isinstance(error, ActivityError) else error
        if isinstance(cause, ApplicationError) and cause.non_retryable:
            raise cause from error
        workflow.logger.warning("%s failed locally, going on remotely: %s", activity, cause)
        return None
    return result


async def finished(activity: Activity, request: StepRequest, of_the_go: Sequence[StepResult]) -> StepResult:
    """A step that was to be done in one go with others: its result from there, or else from going on with it.

    `of_the_go` has one result, or none when the go did not come to this step.
    """
    if of_the_go and of_the_go[0].status is not StepStatus.UNFINISHED:
        return of_the_go[0]
    return await carry_on(activity, request)


async def carry_on(activity: Activity, request: StepRequest) -> StepResult:
    """Goes on with a step for which patience is over: as `carry_out`, but the workflow is free meanwhile."""
    time_left = None
    if request.not_after is not None:
        time_left = max(request.not_after - workflow.now(), timedelta(0)) + _HANDOVER_MARGIN
    try:
        result: StepResult = await workflow.execute_activity(
            activity,
            request,
            result_type=StepResult,
            schedule_to_close_timeout=time_left,
            start_to_close_timeout=time_left or _COMPENSATION_TIMEOUT,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT,
            retry_policy=_UNTIL_IT_WORKS,
        )
    except ActivityError as error:
        # No worker was there to finish it in time, or what it met (books away) lasted too long: then the
        # cause is the last attempt's error.
        if isinstance(error.cause, TimeoutError) or error.retry_state is RetryState.TIMEOUT:
            return StepResult(StepStatus.OUT_OF_TIME)
        raise
    return result
