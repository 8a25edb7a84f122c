"""The life of an order, from acceptance to its outcome.

The books decide every race: a cancellation, a rejection, the deadline and each step's success are
single statements on the order's row, and the first one wins. The workflow carries out what they decided
and never has to guess.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from db.domain import COMPENSATIONS, Reason, ReviewMode, State, Step
    from orchestrator.deadlines import OrderDeadlines
    from orchestrator.messages import (
        INVALID_ORDER,
        Activity,
        ApproveRequest,
        DispatchFailed,
        FinishRequest,
        OpenRequest,
        OrderRequest,
        OrderResult,
        OrderStatus,
        RequestResult,
        ShippingRequest,
        StepBatchRequest,
        StepBatchResult,
        StepRequest,
        StepResult,
        StepStatus,
    )
    from orchestrator.workflow_ids import order_workflow_id, shipping_workflow_id
    from orchestrator.workflows.request_handlers import OrderRequestHandlers
    from orchestrator.workflows.shipping import ShippingWorkflow
    from orchestrator.workflows.step_execution import (
        WORKFLOW_TASK_TIMEOUT,
        advance,
        carry_out,
        finished,
        write,
        write_on,
    )

T = TypeVar("T")

AUTO_REVIEWER = "auto-review"
SHIP_AGAIN_PAUSE = timedelta(milliseconds=250)
"""Between two shipments, to spare a carrier that has just refused one: as long as one attempt may take.
Temporal's timers may make a second of it."""

HAND_BACK_TIMEOUT = timedelta(seconds=1)
"""How long an aborted order waits for the step under way to come back; the books refuse its further
attempts, so it is usually back within one attempt."""

PATIENCE = timedelta(milliseconds=1_200)
"""How long steps may keep the order from hearing a signal."""

_UNDO = {Step.REFUND: Activity.REFUND, Step.RECALL: Activity.RECALL}


class OrderAborted(Exception):
    """The order goes no further; what was done is to be undone."""


@workflow.defn
class OrderWorkflow(OrderRequestHandlers):
    @workflow.init
    def __init__(self, order: OrderRequest) -> None:
        super().__init__(order)
        # When the server took the order, not when a worker first looked at it: that may be much later.
        started = workflow.info().workflow_start_time
        # The books keep milliseconds, and the limit counts from what the books say.
        accepted_at = started.replace(microsecond=started.microsecond // 1000 * 1000)
        # An error here would not refuse the order but repeat the workflow task for ever: see `run`.
        limit_seconds = order.limit_seconds if order.has_valid_limit else 0.0
        self._budget = OrderDeadlines(accepted_at, timedelta(seconds=limit_seconds))
        self._current_step: Step | None = Step.RECEIVE
        self._completed_steps: list[Step] = []
        self._results_in_hand: dict[Step, list[StepResult]] = {}
        self._dispatch_failure: DispatchFailed | None = None
        self._outcome: State | None = None

    @workflow.run
    async def run(self, order: OrderRequest) -> OrderResult:
        """Carries the order out, or undoes what was done of it; returns what the books say in the end.

        Raises ApplicationError: InvalidOrder for content that cannot be carried out or another order's
        workflow id, DuplicateOrder when an earlier run had the same order id.
        """
        problems = order.validation_errors()
        if workflow.info().workflow_id != order_workflow_id(order.order_id):
            # The server's promise of one workflow for an id is what keeps an order from running twice.
            problems.append(f"the workflow of this order must be {order_workflow_id(order.order_id)}")
        if problems:
            # Only a start past our API gets here. Nothing of it is taken into the books.
            raise ApplicationError("; ".join(problems), type=INVALID_ORDER, non_retryable=True)
        deadline = asyncio.create_task(self._turn_back_at_the_deadline())
        life = asyncio.create_task(self._live())
        try:
            result = await asyncio.shield(life)
        except asyncio.CancelledError:
            # An operator cancelled the workflow. The order must still be undone and closed.
            await self._wait_until_stored()
            await self._ask_to_abort(Reason.TERMINATED, by="temporal")
            result = await life
        deadline.cancel()
        try:
            await workflow.wait_condition(workflow.all_handlers_finished)
        except asyncio.CancelledError:
            # The order has its outcome, and a workflow that ends as cancelled would contradict it.
            await workflow.wait_condition(workflow.all_handlers_finished)
        return result

    async def _live(self) -> OrderResult:
        await self._open()
        try:
            await self._receive()
            await self._validate()
            await self._review()
            await self._charge()
            await self._ship()
            outcome = State.COMPLETED
        except OrderAborted:
            outcome = await self._undo()
        return await self._finish(outcome)

    # --- The steps ------------------------------------------------------------------------------

    async def _open(self) -> None:
        request = OpenRequest(
            order=self._order,
            # The same for the run with which an operator's reset goes on: that is no second order.
            workflow_run_id=workflow.info().first_execution_run_id,
            accepted_at=self._budget.accepted_at,
            deadline_at=self._budget.deadline_at,
        )
        steps = (Step.RECEIVE, Step.VALIDATE)
        try:
            if await self._in_one_go(steps, open_request=request) is None:
                await write_on(Activity.OPEN, request, bool)
        except ApplicationError:
            # An earlier run of the same order id has it in the books.
            self._is_duplicate = True
            raise
        self._is_stored = True

    async def _receive(self) -> None:
        result = await self._unless_aborted(self._try(Activity.RECEIVE, Step.RECEIVE))
        await self._settle(Step.RECEIVE, result, if_declined=Reason.VALIDATION_FAILED)

    async def _validate(self) -> None:
        self._current_step = Step.VALIDATE
        result = await self._unless_aborted(self._try(Activity.VALIDATE, Step.VALIDATE))
        await self._settle(Step.VALIDATE, result, if_declined=Reason.VALIDATION_FAILED)

    async def _review(self) -> None:
        """Waits for a reviewer: a person, or in auto mode a simulated one that approves by itself."""
        self._current_step = Step.REVIEW
        self._is_in_review = True
        is_auto = self._order.review is ReviewMode.AUTO
        if self._early_approval is not None:
            await self._approve(self._early_approval.reviewer, request_id="early-approval")
        elif not await self._is_decided_within(self._review_time(is_auto)):
            if is_auto:
                await self._unless_aborted(self._approve_and_charge())
            else:
                await self._ask_to_abort(Reason.REVIEW_EXPIRED)
        if not self._is_approved or self._abort_reason is not None:
            raise OrderAborted
        self._completed_steps.append(Step.REVIEW)

    async def _approve_and_charge(self) -> None:
        """The simulated reviewer's approval, and the charge that follows it, in one go."""
        approval = ApproveRequest(
            self._order.order_id, AUTO_REVIEWER, None, AUTO_REVIEWER, run_id=self._order.run_id
        )
        go = await self._in_one_go((Step.CHARGE,), approval=approval)
        answer = go.approval if go is not None else None
        if answer is None:
            answer = await write_on(Activity.APPROVE, approval, RequestResult)
        self._learn_from(answer)

    async def _charge(self) -> None:
        self._current_step = Step.CHARGE
        self._have_undone([Step.REFUND])
        result = await self._unless_aborted(self._try(Activity.CHARGE, Step.CHARGE))
        await self._settle(Step.CHARGE, result, if_declined=Reason.PAYMENT_DECLINED)

    async def _ship(self) -> None:
        """Ships through a child workflow, and again through another while there is time."""
        self._current_step = Step.PREPARE
        self._have_undone([Step.RECALL])
        for n in itertools.count(1):
            self._dispatch_failure = None
            result = await self._unless_aborted(self._ship_once(n))
            if result.status is StepStatus.DONE:
                self._completed_steps += [Step.PREPARE, Step.DISPATCH]
                return
            if result.status is StepStatus.ABORTED:
                raise OrderAborted
            not_after = self._budget.not_after(Step.PREPARE)
            if workflow.now() + SHIP_AGAIN_PAUSE < not_after:
                await self._pause_unless_aborted(SHIP_AGAIN_PAUSE)
            # Asked after the pause, which may have been a longer one.
            if workflow.now() + SHIP_AGAIN_PAUSE >= not_after:
                await self._give_up_shipping(result)

    async def _give_up_shipping(self, last: StepResult) -> NoReturn:
        """Turns the order back for what its last shipment failed of, unless that was time alone."""
        if last.status is StepStatus.OUT_OF_TIME:
            await self._abort(Reason.DEADLINE, "no time left to ship again")
        failure = self._dispatch_failure
        await self._abort(Reason.SHIPPING_FAILED, failure.reason if failure else "")

    async def _ship_once(self, n: int) -> StepResult:
        try:
            return await workflow.execute_child_workflow(
                ShippingWorkflow.run,
                ShippingRequest(
                    order_id=self._order.order_id,
                    n=n,
                    order_workflow_id=workflow.info().workflow_id,
                    prepare_not_after=self._budget.not_after(Step.PREPARE),
                    dispatch_not_after=self._budget.not_after(Step.DISPATCH),
                    run_id=self._order.run_id,
                ),
                id=shipping_workflow_id(self._order.order_id, n),
                task_queue=self._order.shipping_task_queue,
                task_timeout=WORKFLOW_TASK_TIMEOUT,
                # By the time the order has its outcome the books refuse every step of the shipment.
                parent_close_policy=ParentClosePolicy.TERMINATE,
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
        except FailureError as error:
            # Somebody terminated or cancelled the shipment, or holds its id: it can be shipped again.
            workflow.logger.warning("shipment %d ended from outside: %s", n, error.cause or error)
            return StepResult(StepStatus.UNFINISHED)

    async def _undo(self) -> State:
        """Refunds and recalls what may have been done, side by side, until both have succeeded."""
        if self._abort_reason is None:
            # A step learnt from the books that the order was turned back before we heard why.
            await self._ask_to_abort(Reason.INTERNAL_ERROR)
        if self._abort_reason is None:
            # The carrier has the parcel, although the worker that handed it over could not tell us.
            self._completed_steps += [Step.PREPARE, Step.DISPATCH]
            return State.COMPLETED
        steps = self._to_undo[::-1]
        self._current_step = steps[0] if steps else self._current_step
        await asyncio.gather(*(self._try(_UNDO[step], step) for step in steps))
        self._completed_steps += steps
        return self._abort_reason.outcome

    async def _finish(self, outcome: State) -> OrderResult:
        self._current_step = Step.FINISH
        result = await write(
            Activity.FINISH, FinishRequest(self._order.order_id, outcome, self._order.run_id), OrderResult
        )
        self._outcome = result.outcome
        self._current_step = None
        return result

    # --- How steps are carried out and left -----------------------------------------------------

    async def _in_one_go(
        self,
        steps: Sequence[Step],
        *,
        open_request: OpenRequest | None = None,
        approval: ApproveRequest | None = None,
    ) -> StepBatchResult | None:
        """Does what follows each other without a wait. `_try` then has the results of the steps in hand."""
        go = await advance(
            StepBatchRequest(
                self._order.order_id,
                PATIENCE.total_seconds(),
                open_request,
                approval,
                [self._request(step) for step in steps],
            )
        )
        results = go.steps if go is not None else []
        self._results_in_hand |= {step: results[n : n + 1] for n, step in enumerate(steps)}
        return go

    async def _try(self, activity: Activity, step: Step) -> StepResult:
        request = self._request(step)
        if step in self._results_in_hand:
            return await finished(activity, request, self._results_in_hand.pop(step))
        return await carry_out(activity, request, PATIENCE)

    def _request(self, step: Step) -> StepRequest:
        not_after = None if step in COMPENSATIONS else self._budget.not_after(step)
        return StepRequest(self._order.order_id, step, not_after, run_id=self._order.run_id)

    async def _unless_aborted(self, work: Awaitable[T]) -> T:
        """Waits for a step, but not for long once the order is aborted: a dead worker must not hold it."""
        task = asyncio.ensure_future(work)
        await workflow.wait_condition(lambda: task.done() or self._abort_reason is not None)
        if not task.done():
            await workflow.wait([task], timeout=HAND_BACK_TIMEOUT.total_seconds())
        if not task.done():
            task.cancel()
            raise OrderAborted
        return task.result()

    async def _pause_unless_aborted(self, pause: timedelta) -> None:
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._abort_reason is not None, timeout=pause)
        if self._abort_reason is not None:
            raise OrderAborted

    async def _settle(self, step: Step, result: StepResult, if_declined: Reason) -> None:
        """Goes on when the step is done; leaves the forward path otherwise."""
        if result.status is StepStatus.DECLINED:
            await self._abort(if_declined, result.message)
        if result.status is StepStatus.OUT_OF_TIME:
            await self._abort(Reason.DEADLINE, f"no time left to {step}")
        if result.status is not StepStatus.DONE:
            raise OrderAborted
        self._completed_steps.append(step)

    async def _abort(self, reason: Reason, message: str = "") -> NoReturn:
        """Leaves the forward path. Another reason may have been first; then that one stands."""
        await self._ask_to_abort(reason, message=message)
        raise OrderAborted

    async def _turn_back_at_the_deadline(self) -> None:
        """The limit, inside the workflow: with time kept back to undo what was done."""
        await workflow.sleep(max(self._budget.abort_at - workflow.now(), timedelta(0)))
        await self._wait_until_stored()
        answer = await self._ask_to_abort(Reason.DEADLINE)
        if answer.accepted:
            workflow.logger.warning("order turned back at its deadline")

    def _review_time(self, is_auto: bool) -> float:
        """Seconds until the simulated reviewer approves, or until a person's time is up."""
        seconds_left = max((self._budget.not_after(Step.REVIEW) - workflow.now()).total_seconds(), 0.0)
        return min(self._order.auto_review_seconds, seconds_left) if is_auto else seconds_left

    async def _is_decided_within(self, seconds: float) -> bool:
        def is_decided() -> bool:
            return self._is_approved or self._abort_reason is not None

        if is_decided() or seconds <= 0:
            return is_decided()
        try:
            await workflow.wait_condition(is_decided, timeout=seconds)
        except TimeoutError:
            return False
        return True

    @workflow.signal(name="DispatchFailed")
    def on_dispatch_failed(self, failure: DispatchFailed | None = None) -> None:
        if failure is None:
            return
        self._dispatch_failure = failure
        workflow.logger.info(
            "shipment failed",
            extra={
                "order_id": self._order.order_id,
                "run_id": self._order.run_id,
                "step": self._current_step,
                "attempts": failure.attempts,
                "reason": failure.reason,
            },
        )

    @workflow.query
    def status(self) -> OrderStatus:
        return OrderStatus(
            order_id=self._order.order_id,
            current_step=self._current_step,
            completed_steps=self._completed_steps,
            abort_reason=self._abort_reason,
            outcome=self._outcome,
            deadline_at=self._budget.deadline_at,
        )
