"""How a workflow runs steps and database activities.

In `fast` execution a batch of steps runs first in one local activity, inside the workflow task, which saves
the server three writes. While it runs, the workflow handles no signal, so a batch has a time budget. Each
step that is not done within the budget, or whose local activity failed, continues as a regular activity,
which sends heartbeats, appears in the Temporal UI and is retried if its worker dies.

In `visible` execution each step is a regular activity from the start. It makes one attempt, and Temporal
retries it. docs/decisions/0002, 0011 and 0013 have the measurements.
"""

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

from db.domain import COMPENSATIONS, ExecutionMode, RequestResult, Step
from orchestrator.deadlines import ATTEMPT_TIMEOUT, MAX_BACKOFF
from orchestrator.messages.activities import (
    STEP_ACTIVITIES,
    Activity,
    StepBatchRequest,
    StepBatchResult,
    StepRequest,
    StepResult,
    StepStatus,
)
from orchestrator.messages.ids import compensation_task_queue
from orchestrator.workflows.descriptions import activity_summary
from orchestrator.workflows.order_progress import OrderProgress

Result = TypeVar("Result")

WORKFLOW_TASK_TIMEOUT = timedelta(seconds=3)

_LOCAL_MARGIN = timedelta(milliseconds=1_500)
"""How long a local activity may take beyond its time budget: a last attempt and the database writes."""

_HEARTBEAT_TIMEOUT = timedelta(seconds=2)
_REMOTE_MARGIN = timedelta(seconds=1)
"""How long a regular activity may take after `not_after`, besides an attempt that is longer than those of the
simulated gateways, to report the end of its last attempt."""

_DATABASE_TIMEOUT = timedelta(seconds=5)
_COMPENSATION_TIMEOUT = timedelta(minutes=1)
"""Longer than the quick attempts of one execution."""

_ATTEMPT_MARGIN = timedelta(seconds=1)
"""Time of a single attempt for its database writes, which took 8 to 45 ms on a busy machine. An attempt whose
worker died ends after this time and the gateway's."""

_NO_RETRY = RetryPolicy(maximum_attempts=1)
_RETRY_FOREVER = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    backoff_coefficient=1.5,
    maximum_interval=timedelta(seconds=1),
)
_RETRY_COMPENSATION = RetryPolicy(
    initial_interval=timedelta(milliseconds=200), backoff_coefficient=1.5, maximum_interval=MAX_BACKOFF
)
_RETRY_ATTEMPT = RetryPolicy(
    initial_interval=timedelta(milliseconds=20), backoff_coefficient=1.2, maximum_interval=MAX_BACKOFF
)
"""After errors of the database and lost workers. A failed gateway call has a delay of its own."""


async def run_steps(
    batch: StepBatchRequest,
    progress: OrderProgress | None = None,
    execution: ExecutionMode = ExecutionMode.FAST,
) -> list[StepResult]:
    """Run the parts of a batch in order, until one does not succeed, and update `progress`.

    Returns one result per step that ran; only the last one can be other than DONE, and none is UNFINISHED.
    Returns no result if the approval was refused. Raises ApplicationError only if an activity raised it as
    non-retryable.
    """
    progress = progress or OrderProgress()
    is_visible = execution is ExecutionMode.VISIBLE
    local = None
    if not is_visible:
        timeout = timedelta(seconds=batch.time_budget_seconds) + _LOCAL_MARGIN
        local = await _run_locally(Activity.RUN_STEP_BATCH, batch, StepBatchResult, timeout)
    # In fast execution the local activity with these writes has failed.
    write = run_database_activity if is_visible else _run_remotely
    if batch.open is not None:
        if local is None:
            await write(Activity.OPEN, batch.open, bool)
        progress.is_open = True
    if batch.approve is not None:
        approval = local.approval if local is not None else None
        if approval is None:
            approval = await write(Activity.APPROVE, batch.approve, RequestResult)
        progress.sync_from(approval)
        if not approval.is_approved_and_open:
            return []
        progress.step_done(Step.REVIEW)
    local_results = local.steps if local is not None else []
    results: list[StepResult] = []
    for index, step in enumerate(batch.steps):
        progress.step_started(step.step)
        result = local_results[index] if index < len(local_results) else None
        if result is None or result.status is StepStatus.UNFINISHED:
            result = await _run_step_remotely(replace(step, single_attempt=is_visible))
        results.append(result)
        progress.step_ended(step.step, result)
        if result.status is not StepStatus.DONE:
            break
        progress.step_done(step.step)
    return results


async def run_database_activity(activity: Activity, request: Any, result_type: type[Result]) -> Result:
    """Run an activity that only writes to the order database, and retry until the database is available.

    Raises ApplicationError only if the activity raised it as non-retryable.
    """
    result = await _run_locally(activity, request, result_type, _LOCAL_MARGIN)
    return await _run_remotely(activity, request, result_type) if result is None else result


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
            summary=activity_summary(request),
        )
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        # A non-retryable error too: the regular activity raises it again.
        workflow.logger.warning(
            "local %s failed, retrying as a regular activity: %s", activity, error.cause or error
        )
        return None
    return result


async def _run_remotely(
    activity: Activity,
    request: Any,
    result_type: type[Result],
    *,
    timeout: timedelta = _DATABASE_TIMEOUT,
    retry_timeout: timedelta | None = None,
    heartbeat_timeout: timedelta | None = None,
    task_queue: str | None = None,
    retry_policy: RetryPolicy = _RETRY_FOREVER,
) -> Result:
    """Run a regular activity. Raises ActivityError after `retry_timeout`, and its non-retryable error."""
    try:
        result: Result = await workflow.execute_activity(
            activity,
            request,
            result_type=result_type,
            schedule_to_close_timeout=retry_timeout,
            start_to_close_timeout=timeout,
            heartbeat_timeout=heartbeat_timeout,
            task_queue=task_queue,
            retry_policy=retry_policy,
            summary=activity_summary(request),
        )
    except ActivityError as error:
        if error.retry_state is not RetryState.TIMEOUT and isinstance(error.cause, ApplicationError):
            raise error.cause from error
        raise
    return result


async def _run_step_remotely(request: StepRequest) -> StepResult:
    activity = STEP_ACTIVITIES[request.step]
    options: dict[str, Any] = {"heartbeat_timeout": _HEARTBEAT_TIMEOUT}
    if request.single_attempt:
        attempt_seconds = request.attempt_seconds or ATTEMPT_TIMEOUT.total_seconds()
        timeout = timedelta(seconds=attempt_seconds) + _ATTEMPT_MARGIN
        options = {"timeout": timeout, "retry_policy": _RETRY_ATTEMPT}
    if request.step in COMPENSATIONS:
        defaults: dict[str, Any] = {
            "timeout": _COMPENSATION_TIMEOUT,
            "retry_policy": _RETRY_COMPENSATION,
            "task_queue": compensation_task_queue(workflow.info().task_queue),
        }
        options = defaults | options
        return await _run_remotely(activity, request, StepResult, **options)
    assert request.not_after is not None, "only a compensation has no time limit"
    margin = _REMOTE_MARGIN + timedelta(seconds=request.attempt_seconds or 0)
    time_left = max(request.not_after - workflow.now(), timedelta(0)) + margin
    options.setdefault("timeout", time_left)
    try:
        return await _run_remotely(activity, request, StepResult, retry_timeout=time_left, **options)
    except ActivityError as error:
        # If no worker finished the step in time, the cause is a TimeoutError. If every attempt failed until
        # the time was over (for example while the database was unavailable), it is the last attempt's error.
        if isinstance(error.cause, TimeoutError) or error.retry_state is RetryState.TIMEOUT:
            return StepResult(StepStatus.OUT_OF_TIME)
        raise
