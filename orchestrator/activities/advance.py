"""Several parts of an order's life in one activity.

Each local activity costs its worker more than the statement or call that it makes: it is handed to the
workflow and back by itself. What follows each other without a wait is therefore done in one go
(docs/decisions/0011).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from time import perf_counter

from temporalio import activity

from orchestrator.vocabulary import (
    Activity,
    AdvanceRequest,
    AdvanceResult,
    Answer,
    ApproveRequest,
    OpenRequest,
    Step,
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
        open_order: Callable[[OpenRequest], Awaitable[bool]] | None = None,
        approve: Callable[[ApproveRequest], Awaitable[Answer]] | None = None,
    ) -> None:
        self._steps = steps
        self._open_order = open_order
        self._approve = approve

    @activity.defn(name=Activity.ADVANCE)
    async def advance(self, request: AdvanceRequest) -> AdvanceResult:
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
                return AdvanceResult(approval)
        results: list[StepResult] = []
        for step in request.steps:
            patience_seconds = request.patience_seconds - (perf_counter() - began_at)
            if patience_seconds <= 0:
                break
            result = await self._steps[step.step](replace(step, patience_seconds=patience_seconds))
            results.append(result)
            if result.status is not StepStatus.DONE:
                break
        return AdvanceResult(approval, results)
