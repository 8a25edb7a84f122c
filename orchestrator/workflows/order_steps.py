"""How OrderWorkflow runs its steps, and how an abort interrupts them."""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn, TypeVar

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from db.domain import COMPENSATIONS, NewOrder, Reason, Step
from orchestrator.deadlines import OrderDeadlines
from orchestrator.messages.activities import (
    ApproveRequest,
    StepBatchRequest,
    StepRequest,
    StepResult,
    StepStatus,
)
from orchestrator.messages.orders import OrderRequest
from orchestrator.workflows.order_progress import OrderProgress
from orchestrator.workflows.request_handlers import OrderRequestHandlers
from orchestrator.workflows.step_execution import run_steps

T = TypeVar("T")

TIME_BUDGET = timedelta(milliseconds=1_200)
"""Time budget of a batch. Its local activity delays signals by up to this time: 1.2 s, so signals are handled
within 1.5 s (docs/decisions/0002)."""

ABORT_GRACE = timedelta(seconds=1)
"""How long an aborted order waits for the running step. The database refuses further attempts, so the
step usually ends within one attempt."""

DECLINE_REASONS = {
    Step.RECEIVE: Reason.VALIDATION_FAILED,
    Step.VALIDATE: Reason.VALIDATION_FAILED,
    Step.CHARGE: Reason.PAYMENT_DECLINED,
}


class OrderAborted(Exception):
    """The order was aborted: no further step may run, and its compensations must."""


class OrderSteps:
    """Runs the steps of one order and records their progress."""

    def __init__(
        self,
        order: OrderRequest,
        deadlines: OrderDeadlines,
        progress: OrderProgress,
        requests: OrderRequestHandlers,
    ) -> None:
        self._order = order
        self._deadlines = deadlines
        self._progress = progress
        self._requests = requests

    async def run_batch(
        self,
        *steps: Step,
        opening: NewOrder | None = None,
        approval: ApproveRequest | None = None,
    ) -> None:
        """Run steps in order as one batch, after `opening` or `approval` if given.

        Raises OrderAborted unless all steps are done.
        """
        batch = self._batch(steps, opening, approval)
        try:
            results = await self.wait_unless_aborted(self._run(batch))
        except ApplicationError as error:
            if not self._progress.is_open:
                # The order was not inserted; DuplicateOrder if an earlier workflow had this order id.
                self._progress.open_error = error
                raise
            await self.abort(Reason.INTERNAL_ERROR, error.message)
        for index, (step, result) in enumerate(zip(steps, results, strict=False)):
            if result.status is StepStatus.DECLINED:
                await self.abort_declined(DECLINE_REASONS[step], result)
                await self.run_batch(*steps[index:])
                return
            await self._require_done(step, result)
        if len(results) < len(steps):
            raise OrderAborted

    async def run_compensation(self, step: Step) -> None:
        """Run a compensation, with retries and without a time limit until it is done."""
        await self._run(self._batch([step]))

    async def abort(self, reason: Reason, message: str = "") -> NoReturn:
        """Abort the order and raise OrderAborted. An abort reason that is already stored does not change."""
        await self._requests.abort(reason, message=message)
        raise OrderAborted

    async def abort_declined(self, reason: Reason, declined: StepResult) -> None:
        """Abort the order after a final decline and raise OrderAborted.

        Returns, and the step must run again, if the carrier declined an address that was changed since.
        """
        await self._requests.abort(reason, message=declined.message, address_version=declined.address_version)
        if self._progress.is_aborted or declined.address_version is None:
            raise OrderAborted

    async def wait_unless_aborted(self, work: Awaitable[T]) -> T:
        """Wait for a step and return its result.

        Raises OrderAborted if the step is still running ABORT_GRACE after an abort: its worker may have died.
        """
        task = asyncio.ensure_future(work)
        await workflow.wait_condition(lambda: task.done() or self._progress.is_aborted)
        if not task.done():
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    task.done, timeout=ABORT_GRACE, timeout_summary="end of the running step"
                )
        if not task.done():
            task.cancel()
            raise OrderAborted
        return task.result()

    async def sleep_unless_aborted(self, duration: timedelta) -> None:
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._progress.is_aborted, timeout=duration, timeout_summary="delay between shipments"
            )
        if self._progress.is_aborted:
            raise OrderAborted

    async def _run(self, batch: StepBatchRequest) -> list[StepResult]:
        return await run_steps(batch, self._progress, self._order.execution)

    def _batch(
        self,
        steps: Sequence[Step],
        opening: NewOrder | None = None,
        approval: ApproveRequest | None = None,
    ) -> StepBatchRequest:
        requests = [
            StepRequest(
                self._order.order_id,
                step,
                not_after=None if step in COMPENSATIONS else self._deadlines.not_after(step),
                run_id=self._order.run_id,
                attempt_seconds=self._order.time_needs.attempts[step] if self._order.time_needs else None,
            )
            for step in steps
        ]
        return StepBatchRequest(TIME_BUDGET.total_seconds(), opening, approval, requests)

    async def _require_done(self, step: Step, result: StepResult) -> None:
        """Raise OrderAborted unless the step is done; abort the order first if it is not aborted yet."""
        if result.status is StepStatus.OUT_OF_TIME:
            await self.abort(Reason.DEADLINE, f"no time left for step {step}")
        if result.status is not StepStatus.DONE:
            raise OrderAborted
