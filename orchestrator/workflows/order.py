"""The business process of one order, from acceptance to its outcome.

The order database decides every race: a cancellation, a rejection, the deadline and the success of each step
are single statements on the order's row, and the first one wins. The workflow acts on these decisions.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from db.domain import Reason, RequestResult, ReviewMode, State, Step
    from orchestrator.deadlines import backoff
    from orchestrator.messages.activities import Activity, FinishRequest, StepResult, StepStatus
    from orchestrator.messages.ids import order_workflow_id, shipping_workflow_id
    from orchestrator.messages.orders import (
        INVALID_ORDER,
        OrderRequest,
        OrderResult,
        OrderStatus,
        ShippingRequest,
    )
    from orchestrator.messages.requests import (
        ApproveOrder,
        CancelOrder,
        DispatchFailed,
        RejectOrder,
        UpdateAddress,
    )
    from orchestrator.workflows.descriptions import order_details
    from orchestrator.workflows.order_progress import OrderProgress
    from orchestrator.workflows.order_steps import OrderAborted, OrderSteps
    from orchestrator.workflows.request_handlers import OrderRequestHandlers, reject_if_invalid
    from orchestrator.workflows.shipping import ShippingWorkflow
    from orchestrator.workflows.step_execution import WORKFLOW_TASK_TIMEOUT, run_database_activity

AUTO_REVIEWER = "auto-review"

MAX_SHIPMENTS = 50
"""Shipments of one order. Each adds about 17 events to the history."""

SHIPPING_RETRY_DELAY = timedelta(milliseconds=250)
"""Before the second shipment; doubles for each further one. On Temporal's timers it can take a second."""


@workflow.defn
class OrderWorkflow:
    """One order. Its methods are in the order in which they run."""

    @workflow.init
    def __init__(self, order: OrderRequest) -> None:
        self._order = order
        # The server's start time: a worker may see the order much later. The database keeps milliseconds.
        started = workflow.info().workflow_start_time
        accepted_at = started.replace(microsecond=started.microsecond // 1000 * 1000)
        # An exception here would retry the workflow task forever, so `run` rejects an invalid limit.
        self._deadlines = order.deadlines(accepted_at)
        self._progress = OrderProgress(self._show_details)
        self._requests = OrderRequestHandlers(order, self._progress)
        self._steps = OrderSteps(order, self._deadlines, self._progress, self._requests)

    @workflow.run
    async def run(self, order: OrderRequest) -> OrderResult:
        """Process the order, or compensate it, and return the outcome that the database holds.

        Raises ApplicationError: InvalidOrder for invalid content or a workflow id that is not this order's,
        DuplicateOrder when an earlier workflow had the same order id.
        """
        _reject_if_invalid(order)
        deadline = asyncio.create_task(self._abort_at_deadline())
        process = asyncio.create_task(self._process())
        try:
            result = await asyncio.shield(process)
        except asyncio.CancelledError:
            # An operator cancelled the workflow. The order must still be compensated and finished.
            await self._requests.wait_until_open()
            await self._requests.abort(Reason.TERMINATED, requested_by="temporal")
            result = await process
        deadline.cancel()
        try:
            await workflow.wait_condition(workflow.all_handlers_finished)
        except asyncio.CancelledError:
            # The order has its outcome; a workflow that closes as cancelled would contradict it.
            await workflow.wait_condition(workflow.all_handlers_finished)
        return result

    async def _process(self) -> OrderResult:
        try:
            await self._intake()
            await self._review()
            await self._pay()
            await self._ship()
            outcome = State.COMPLETED
        except OrderAborted:
            outcome = await self._compensate()
        return await self._finish(outcome)

    # --- The steps ------------------------------------------------------------------------------

    async def _intake(self) -> None:
        """Open, receive and validate the order."""
        # Not the current run: after an operator's reset it differs, and the order is the same.
        run_id = workflow.info().first_execution_run_id
        opening = self._order.new_order(run_id, self._deadlines.accepted_at)
        await self._steps.run_batch(Step.RECEIVE, Step.VALIDATE, opening=opening)

    async def _review(self) -> None:
        """Wait for the decision of a person, or in auto mode for the simulated reviewer's time to pass."""
        progress = self._progress
        progress.step_started(Step.REVIEW)
        progress.is_in_review = True
        is_auto = self._order.review is ReviewMode.AUTO
        if progress.early_approval is not None:
            await self._requests.approve_in_review(progress.early_approval, request_id="early-approval")
        elif not await self._is_review_decided():
            if is_auto:
                return  # `_pay` approves and charges in one batch.
            await self._steps.abort(Reason.REVIEW_EXPIRED)
        if progress.is_aborted or not progress.is_approved:
            raise OrderAborted
        progress.step_done(Step.REVIEW)

    async def _is_review_decided(self) -> bool:
        """Wait for a decision until the review's time is over; return whether there is one."""
        progress = self._progress
        seconds = (self._deadlines.not_after(Step.REVIEW) - workflow.now()).total_seconds()
        if self._order.review is ReviewMode.AUTO:
            seconds = min(seconds, self._order.auto_review_seconds)
        if seconds > 0 and not progress.is_review_decided:
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: progress.is_review_decided,
                    timeout=seconds,
                    timeout_summary=f"{self._order.review} review",
                )
        return progress.is_review_decided

    async def _pay(self) -> None:
        """Charge the payment, after the simulated reviewer's approval if no person has approved."""
        self._progress.register_compensation(Step.REFUND)
        approval = None
        if not self._progress.is_approved:
            approval = self._requests.approval(AUTO_REVIEWER, request_id=AUTO_REVIEWER)
        await self._steps.run_batch(Step.CHARGE, approval=approval)

    async def _ship(self) -> None:
        """Prepare and dispatch in a child workflow. While there is time, start another one if an operator has
        ended it, or if the address that the carrier declined has been changed."""
        progress = self._progress
        progress.step_started(Step.PREPARE)
        progress.register_compensation(Step.RECALL)
        for n in range(1, MAX_SHIPMENTS + 1):
            progress.dispatch_failure = None
            result = await self._steps.wait_unless_aborted(self._run_shipment(n))
            if result.status is StepStatus.DONE:
                progress.step_done(Step.PREPARE)
                progress.step_done(Step.DISPATCH)
                return
            if result.status is StepStatus.ABORTED:
                raise OrderAborted
            if result.status is StepStatus.DECLINED:
                await self._steps.abort_declined(Reason.SHIPPING_FAILED, result)
            time_left = self._deadlines.not_after(Step.PREPARE) - workflow.now()
            delay = backoff(SHIPPING_RETRY_DELAY, n - 1, workflow.random().random(), time_left)
            if delay < time_left:
                await self._steps.sleep_unless_aborted(delay)
            # Checked after the delay, which can take longer than planned.
            if workflow.now() + SHIPPING_RETRY_DELAY >= self._deadlines.not_after(Step.PREPARE):
                await self._abort_failed_shipping(result)
        await self._steps.abort(Reason.SHIPPING_FAILED, f"{MAX_SHIPMENTS} shipments did not complete")

    async def _run_shipment(self, n: int) -> StepResult:
        shipment = ShippingRequest(
            order_id=self._order.order_id,
            n=n,
            order_workflow_id=workflow.info().workflow_id,
            prepare_not_after=self._deadlines.not_after(Step.PREPARE),
            dispatch_not_after=self._deadlines.not_after(Step.DISPATCH),
            run_id=self._order.run_id,
            execution=self._order.execution,
            attempt_seconds=self._order.time_needs.attempts if self._order.time_needs else {},
        )
        try:
            return await workflow.execute_child_workflow(
                ShippingWorkflow.run,
                shipment,
                id=shipping_workflow_id(self._order.order_id, n),
                task_queue=self._order.shipping_task_queue,
                task_timeout=WORKFLOW_TASK_TIMEOUT,
                # When the order has its outcome, the database refuses every step of the shipment.
                parent_close_policy=ParentClosePolicy.TERMINATE,
                static_summary=f"shipment {n} of order {self._order.order_id}",
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
        except FailureError as error:
            # An operator ended the child, or another workflow has its id: another shipment follows.
            workflow.logger.warning("shipment %d did not complete: %s", n, error.cause or error)
            return StepResult(StepStatus.UNFINISHED)

    def _show_details(self) -> None:
        """Show the progress in Temporal's UI. The worker keeps the text in memory; it adds no event."""
        deadline_at = self._deadlines.deadline_at
        workflow.set_current_details(order_details(self._progress, deadline_at, workflow.now()))

    async def _abort_failed_shipping(self, last: StepResult) -> NoReturn:
        if last.status is StepStatus.OUT_OF_TIME:
            await self._steps.abort(Reason.DEADLINE, "no time left for another shipment")
        failure = self._progress.dispatch_failure
        await self._steps.abort(Reason.SHIPPING_FAILED, failure.reason if failure else "")

    async def _compensate(self) -> State:
        """Run the registered compensations in parallel, and return the outcome."""
        progress = self._progress
        if progress.abort_reason is None:
            # A step found the order aborted in the database; the request that aborted it is not known here.
            await self._requests.abort(Reason.INTERNAL_ERROR)
        if progress.abort_reason is None:
            # Dispatched: the worker stored it, but died before it could report to the workflow.
            progress.step_done(Step.PREPARE)
            progress.step_done(Step.DISPATCH)
            return State.COMPLETED
        steps = progress.compensations[::-1]
        await asyncio.gather(*(self._steps.run_compensation(step) for step in steps))
        return progress.abort_reason.outcome

    async def _finish(self, outcome: State) -> OrderResult:
        progress = self._progress
        progress.step_started(Step.FINISH)
        request = FinishRequest(self._order.order_id, outcome, self._order.run_id)
        result = await run_database_activity(Activity.FINISH, request, OrderResult)
        progress.finish(result.outcome)
        return result

    async def _abort_at_deadline(self) -> None:
        """Abort the order in time to compensate it. A workflow execution timeout would end it without
        compensation."""
        seconds = max(self._deadlines.abort_at - workflow.now(), timedelta(0)).total_seconds()
        await workflow.sleep(seconds, summary="deadline")
        await self._requests.wait_until_open()
        result = await self._requests.abort(Reason.DEADLINE)
        if result.accepted:
            workflow.logger.warning("order aborted at its deadline")

    # --- Signals, updates and the query ---------------------------------------------------------
    # A signal can be sent by hand, without its argument.

    @workflow.update
    async def cancel_order(self, request: CancelOrder) -> RequestResult:
        return await self._requests.cancel(request)

    @cancel_order.validator
    def _validate_cancel_order(self, request: CancelOrder) -> None:
        reject_if_invalid(request)
        self._requests.reject_if_full(request)

    @workflow.signal(name="CancelOrder")
    async def cancel_order_signal(self, request: CancelOrder | None = None) -> None:
        await self._requests.handle_signal(self._requests.cancel, request)

    @workflow.update
    async def update_address(self, request: UpdateAddress) -> RequestResult:
        return await self._requests.update_address(request)

    @update_address.validator
    def _validate_update_address(self, request: UpdateAddress) -> None:
        reject_if_invalid(request)
        self._requests.reject_if_full(request)

    @workflow.signal(name="UpdateAddress")
    async def update_address_signal(self, request: UpdateAddress | None = None) -> None:
        await self._requests.handle_signal(self._requests.update_address, request)

    @workflow.update
    async def approve_order(self, request: ApproveOrder) -> RequestResult:
        return await self._requests.approve(request)

    @approve_order.validator
    def _validate_approve_order(self, request: ApproveOrder) -> None:
        reject_if_invalid(request)
        self._requests.reject_if_full(request)

    @workflow.signal(name="ApproveOrder")
    async def approve_order_signal(self, request: ApproveOrder | None = None) -> None:
        await self._requests.handle_signal(self._requests.approve, request)

    @workflow.update
    async def reject_order(self, request: RejectOrder) -> RequestResult:
        return await self._requests.reject(request)

    @reject_order.validator
    def _validate_reject_order(self, request: RejectOrder) -> None:
        reject_if_invalid(request)
        self._requests.reject_if_full(request)

    @workflow.signal(name="RejectOrder")
    async def reject_order_signal(self, request: RejectOrder | None = None) -> None:
        await self._requests.handle_signal(self._requests.reject, request)

    @workflow.signal(name="DispatchFailed")
    def dispatch_failed_signal(self, failure: DispatchFailed | None = None) -> None:
        if failure is not None:
            self._progress.dispatch_failure = failure
            order = {
                "order_id": self._order.order_id,
                "run_id": self._order.run_id,
                "step": self._progress.current_step,
            }
            workflow.logger.info("shipment failed", extra=order | vars(failure))

    @workflow.query
    def status(self) -> OrderStatus:
        return OrderStatus(
            order_id=self._order.order_id,
            current_step=self._progress.current_step,
            completed_steps=self._progress.completed_steps,
            abort_reason=self._progress.abort_reason,
            outcome=self._progress.outcome,
            deadline_at=self._deadlines.deadline_at,
        )


def _reject_if_invalid(order: OrderRequest) -> None:
    """Validate the order as the API does, before it is stored. Raises InvalidOrder."""
    errors = order.validation_errors()
    workflow_id = order_workflow_id(order.order_id)
    if workflow.info().workflow_id != workflow_id:
        # Temporal runs at most one workflow per id. With another id, a second workflow could run the order.
        errors.append(f"the workflow id of this order must be {workflow_id}")
    if errors:
        raise ApplicationError("; ".join(errors), type=INVALID_ORDER, non_retryable=True)
