"""Several parts of an order's life in one activity.

Each local activity costs its worker more than the statement or call that it makes: it is handed to the
workflow and back by itself. What follows each other without a wait is therefore done in one go
(docs/decisions/0011).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from time import perf_counter

from temporalio import activity

from db.domain import Step
from orchestrator.messages import (
    Activity,
    ApproveRequest,
    OpenRequest,
    RequestResult,
    StepBatchRequest,
    StepBatchResult,
    StepRequest,
    StepResult,
    StepStatus,
)

CarryOut = Callable[[StepRequest], Awaitable[StepResult]]


class Advance:
    """One go through the activities of a worker."""

    def __init__(
        self,
        steps: Mapping[Step, CarryOut],
        *,
        insert_order: Callable[[OpenRequest], Awaitable[bool]] | None = None,
        approve: Callable[[ApproveRequest], Awaitable[RequestResult]] | None = None,
    ) -> None:
        self._steps = steps
        self._open_order = insert_order
        self._approve = approve

    @activity.defn(name=Activity.RUN_STEP_BATCH)
    async def advance(self, request: StepBatchRequest) -> StepBatchResult:
        """Stops at the first part that does not succeed, and before a step for which no patience is left.

        Raises what the parts raise. What was done before stands in the books: each part may run twice.
        """
        began_at = perf_counter()
        if request.open is not None:
            assert self._open_order is not None
            await self._open_order(request.open)
        approval = None
        if request.approve is not None:
            assert self._approve is not None
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
