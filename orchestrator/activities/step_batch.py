"""Runs several parts of an order in one activity.

A local activity costs its worker more than the statement or call that it makes, because of the round trip
through the SDK. So consecutive parts without a wait in between run in one local activity
(docs/decisions/0011).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from time import perf_counter

from temporalio import activity

from db.domain import NewOrder, RequestResult, Step
from orchestrator.messages.activities import (
    Activity,
    ApproveRequest,
    StepBatchRequest,
    StepBatchResult,
    StepRequest,
    StepResult,
    StepStatus,
)

RunStep = Callable[[StepRequest], Awaitable[StepResult]]


class StepBatchActivity:
    """The activity RunStepBatch of one worker, over that worker's other activities."""

    def __init__(
        self,
        steps: Mapping[Step, RunStep],
        open_order: Callable[[NewOrder], Awaitable[bool]],
        approve: Callable[[ApproveRequest], Awaitable[RequestResult]],
    ) -> None:
        self._steps = steps
        self._open_order = open_order
        self._approve = approve

    @activity.defn(name=Activity.RUN_STEP_BATCH)
    async def run_batch(self, request: StepBatchRequest) -> StepBatchResult:
        """Run the parts in order; stop at the first that does not succeed, or when the time budget is used
        up.

        Raises what a part raises. The parts before it are stored, and each part may be repeated.
        """
        began_at = perf_counter()
        if request.open is not None:
            await self._open_order(request.open)
        approval = None
        if request.approve is not None:
            approval = await self._approve(request.approve)
            if not approval.accepted:
                return StepBatchResult(approval)
        results: list[StepResult] = []
        for step in request.steps:
            time_budget_seconds = request.time_budget_seconds - (perf_counter() - began_at)
            if time_budget_seconds <= 0:
                break
            result = await self._steps[step.step](replace(step, time_budget_seconds=time_budget_seconds))
            results.append(result)
            if result.status is not StepStatus.DONE:
                break
        return StepBatchResult(approval, results)
