"""Trying a step until it works: quick, bounded attempts inside one activity, each in the books.

Temporal could repeat the activity instead, but a server-side retry costs about a second and two
workflow-history writes; repeating here costs the failed call alone. Temporal's retry takes over when
the worker itself dies.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any, TypeVar

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from db.domain import COMPENSATIONS, AttemptOutcome
from db.orders import DUE_STATE, AttemptResult, OrderRepository, StartedAttempt
from orchestrator.deadlines import ATTEMPT_TIMEOUT
from orchestrator.errors import DatabaseUnavailable, GatewayDeclined, GatewayError
from orchestrator.gateways.fault_injection import Call, FaultInjector
from orchestrator.messages import StepRequest, StepResult, StepStatus

T = TypeVar("T")

FIRST_PAUSE = timedelta(milliseconds=20)
LONGEST_PAUSE = timedelta(milliseconds=250)
BOOKS_PAUSE = timedelta(milliseconds=200)
HAND_OVER = "HandOver"
HAND_OVER_DELAY = timedelta(milliseconds=1)
"""Another worker may have the step at once; Temporal's usual pause is for what may fail again."""

GatewayCall = Callable[[StartedAttempt], Awaitable[dict[str, Any]]]
"""Makes the call and returns what the books should keep of its answer."""

Notice = Callable[[StepRequest, AttemptResult], None]
"""Is told of each attempt as it ends, inside its activity."""

log = structlog.get_logger()


class StepRunner:
    """Runs the attempts of steps for one worker."""

    def __init__(
        self, orders: OrderRepository, faults: FaultInjector, notices: Sequence[Notice] = ()
    ) -> None:
        self._orders = orders
        self._faults = faults
        self._notices = notices

    async def run(
        self,
        request: StepRequest,
        call: GatewayCall,
        *,
        label_version: Callable[[StartedAttempt], int] | None = None,
    ) -> StepResult:
        """Repeats `call` until it works, is declined, or must stop; a compensation also when it is declined,
        because nothing else would undo what was done.

        Returns DONE also when the books say that the step was done before; ABORTED when the order was
        turned back; OUT_OF_TIME past `not_after`; UNFINISHED when `time_budget_seconds` are over first, or
        when the worker is ending. Raises DatabaseUnavailable, StaleAttempt or, as a regular activity of a worker that is
        ending, ApplicationError, upon which Temporal runs the activity again.
        """
        log_step = log.bind(order_id=request.order_id, run_id=request.run_id, step=request.step.value)
        began_at = perf_counter()
        ended: AttemptResult | None = None
        failures_in_a_row = 0
        attempts = 0
        while True:
            pause = _pause(ended, failures_in_a_row)
            status = _time_is_up(request, pause, perf_counter() - began_at, is_first=attempts == 0)
            if status is not None:
                return await self._stop(request, ended, attempts, status)
            if pause:
                await asyncio.sleep(pause.total_seconds())
            attempt = await self._orders.start_next_attempt(request.order_id, request.step, ended)
            if attempt is None:
                return await self._stop(request, ended, attempts, StepStatus.ABORTED)
            attempts = attempt.number
            _heartbeat(attempt.number, ended.detail.get("error") if ended else None)

            ended = await self._try_once(request, attempt, call)
            for notice in self._notices:
                notice(request, ended)
            if ended.outcome is AttemptOutcome.OK:
                version = label_version(attempt) if label_version else None
                if await self._completed(request, ended, version):
                    log_step.info("step done", attempt=attempt.number, duration_ms=ended.duration_ms)
                    return StepResult(StepStatus.DONE, attempt.number)
                # Aborted meanwhile, or the address has changed: the next round finds out.
                failures_in_a_row = 0
                continue
            log_step.info(
                "attempt failed",
                attempt=attempt.number,
                outcome=ended.outcome.value,
                error=ended.detail.get("error"),
                duration_ms=ended.duration_ms,
            )
            if ended.outcome is AttemptOutcome.DECLINED and request.step not in COMPENSATIONS:
                await self._orders.end_attempt(request.order_id, request.step, ended)
                return StepResult(StepStatus.DECLINED, attempt.number, str(ended.detail.get("error", "")))
            failures_in_a_row += 1

    async def _try_once(
        self, request: StepRequest, attempt: StartedAttempt, call: GatewayCall
    ) -> AttemptResult:
        started = perf_counter()
        detail: dict[str, Any] = {}
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT.total_seconds()):
                detail = await self._faults.call(
                    Call(request.order_id, request.step, attempt.number), lambda: call(attempt)
                )
            outcome = AttemptOutcome.OK
        except TimeoutError:
            outcome = AttemptOutcome.TIMEOUT
            detail = {"error": f"no answer within {ATTEMPT_TIMEOUT.total_seconds() * 1000:.0f} ms"}
        except GatewayDeclined as error:
            outcome, detail = AttemptOutcome.DECLINED, {"error": str(error)}
        except GatewayError as error:
            outcome, detail = AttemptOutcome.ERROR, {"error": str(error)}
        return AttemptResult(attempt.number, outcome, round((perf_counter() - started) * 1000, 3), detail)

    async def _completed(self, request: StepRequest, ended: AttemptResult, label_version: int | None) -> bool:
        # The outside has done its part: wait out a short absence of the books rather than repeat it.
        for _ in range(5):
            try:
                return await self._orders.complete_step(request.order_id, request.step, ended, label_version)
            except DatabaseUnavailable:
                _heartbeat(ended.number, "the books do not answer")
                await asyncio.sleep(BOOKS_PAUSE.total_seconds())
        return await self._orders.complete_step(request.order_id, request.step, ended, label_version)

    async def _stop(
        self, request: StepRequest, ended: AttemptResult | None, attempts: int, otherwise: StepStatus
    ) -> StepResult:
        """Closes the last attempt and says why no other follows: the books' reason, else `otherwise`."""
        if ended is not None:
            await self._orders.end_attempt(request.order_id, request.step, ended)
        standing = await self._orders.standing(request.order_id)
        if standing is None:
            raise LookupError(request.order_id)
        due_state = DUE_STATE.get(request.step)
        status: StepStatus
        if due_state is None:
            # A compensation that is not due any more has nothing left to undo.
            status = StepStatus.DONE if otherwise is StepStatus.ABORTED else otherwise
        elif standing.abort_reason is not None:
            status = StepStatus.ABORTED
        elif standing.state.is_past(due_state):
            status = StepStatus.DONE
        else:
            status = otherwise
        if status is StepStatus.UNFINISHED and request.time_budget_seconds is None:
            # The workflow did not ask to be told: another worker is to go on with the step.
            raise ApplicationError(
                "its worker is ending, another goes on with it",
                type=HAND_OVER,
                next_retry_delay=HAND_OVER_DELAY,
                category=ApplicationErrorCategory.BENIGN,
            )
        return StepResult(status, attempts)


def _heartbeat(attempt: int, last_error: str | None) -> None:
    # A local activity has nobody to report to.
    if not activity.info().is_local:
        activity.heartbeat(attempt, last_error)


def _pause(ended: AttemptResult | None, failures_in_a_row: int) -> timedelta:
    """Zero after a timeout, which was pause enough; growing after quick errors, to spare the provider; long
    after a no, which hardly becomes a yes at once."""
    if ended is not None and ended.outcome is AttemptOutcome.DECLINED:
        return LONGEST_PAUSE
    if ended is None or ended.outcome is not AttemptOutcome.ERROR:
        return timedelta(0)
    return min(FIRST_PAUSE * (1 << min(failures_in_a_row - 1, 10)), LONGEST_PAUSE)


def _time_is_up(
    request: StepRequest, pause: timedelta, elapsed_seconds: float, *, is_first: bool
) -> StepStatus | None:
    if request.not_after is not None and datetime.now(UTC) + pause >= request.not_after:
        return StepStatus.OUT_OF_TIME
    if activity.is_worker_shutdown():
        return StepStatus.UNFINISHED
    if request.time_budget_seconds is None or is_first:
        return None
    return StepStatus.UNFINISHED if elapsed_seconds >= request.time_budget_seconds else None
