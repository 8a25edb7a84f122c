"""Runs a step until it succeeds: short attempts with timeouts inside one activity, each stored.

Temporal could retry the activity instead, but a server-side retry costs up to a second; an attempt here costs
the failed call alone. Temporal's retry applies when the worker dies, and after QUICK_ATTEMPTS: then each
execution of the activity makes one attempt, and no worker waits between them.

With `single_attempt` each execution makes one attempt from the start, so that Temporal shows every failure.
The attempt's number in the order database is the fencing token in both cases. It equals Temporal's, unless
the step runs again as another activity, whose attempts Temporal counts from 1.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any, NoReturn

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from db.domain import ADDRESS_STEPS, COMPENSATIONS, QUICK_ATTEMPTS, AttemptOutcome, Step
from db.orders import AttemptResult, OrderRepository, StartedAttempt
from orchestrator.deadlines import backoff
from orchestrator.errors import DatabaseError, GatewayDeclined, GatewayError
from orchestrator.gateways.call_guard import SIMULATED_STEP, GatewayBusy, StepCalls
from orchestrator.gateways.fault_injection import Call, FaultInjector
from orchestrator.messages.activities import StepRequest, StepResult, StepStatus

MAX_QUICK_BACKOFF = timedelta(milliseconds=250)
"""Longest delay for which a worker waits. A step with a longer one is returned to Temporal."""

FIRST_LONG_BACKOFF = timedelta(milliseconds=500)
DATABASE_BACKOFF = timedelta(milliseconds=200)
DATABASE_RETRIES = 5

MAX_LOCAL_TIMEOUT = timedelta(seconds=1)
"""Longest attempt timeout of a local activity, which delays signals and must end within the workflow task."""

HEARTBEAT_INTERVAL = timedelta(seconds=0.5)
"""During long attempts. The heartbeat timeout is 2 s."""

RETRY = "Retry"
"""Type of the error with which a step is returned to Temporal: its worker is stopping, or its next attempt
has a long delay."""

HAND_OVER_DELAY = timedelta(milliseconds=1)
"""Another worker can run the step of a stopping worker immediately. Temporal's default delay is meant for
failures."""

FAILURE_TYPES = {
    AttemptOutcome.ERROR: "GatewayError",
    AttemptOutcome.TIMEOUT: "GatewayTimeout",
    AttemptOutcome.DECLINED: "GatewayDeclined",
}
"""The types under which Temporal shows failed single attempts."""

GatewayCall = Callable[[StartedAttempt], Awaitable[dict[str, Any] | None]]
"""Calls the gateway and returns the part of the response to store with the attempt, if any."""

AttemptObserver = Callable[[StepRequest, AttemptResult], None]
"""Called with each attempt when it ends, inside its activity."""

log = structlog.get_logger()


class StepRunner:
    """Runs the attempts of steps for one worker."""

    def __init__(
        self,
        orders: OrderRepository,
        fault_injector: FaultInjector | None = None,
        observers: Sequence[AttemptObserver] = (),
        calls: Mapping[Step, StepCalls] | None = None,
    ) -> None:
        """`calls` has how each step calls its gateways, by default like simulated ones. `fault_injector` is
        None for real gateways."""
        self._orders = orders
        self._fault_injector = fault_injector
        self._observers = observers
        self._calls = calls or {}

    async def run(self, request: StepRequest, call: GatewayCall) -> StepResult:
        """Repeat `call` until it succeeds, is declined, or must stop. A declined compensation is repeated.

        Return DONE when the step is completed, also by an earlier execution; ABORTED when the order is
        aborted; OUT_OF_TIME after `not_after`; UNFINISHED when `time_budget_seconds` are used up, the worker
        is stopping or the next attempt has a long delay. Raises DatabaseError, StaleAttempt, or, where a
        regular activity would return UNFINISHED or its single attempt failed, ApplicationError, after which
        Temporal retries the activity.
        """
        log_step = log.bind(order_id=request.order_id, run_id=request.run_id, step=request.step.value)
        began_at = perf_counter()
        ended: AttemptResult | None = None
        failures_in_a_row = 0
        attempts = 0
        calls = self._calls.get(request.step, SIMULATED_STEP)
        last_error = ""
        while True:
            delay = max(_retry_delay(request, calls, ended, failures_in_a_row), calls.delay)
            status = _stop_status(request, calls, delay, perf_counter() - began_at, is_first=attempts == 0)
            if status is not None:
                return await self._stop(request, ended, attempts, status, delay)
            if delay:
                await asyncio.sleep(delay.total_seconds())
            calls.start()
            attempt = await self._orders.start_next_attempt(request.order_id, request.step, ended)
            if attempt is None:
                return await self._stop(request, ended, attempts, StepStatus.ABORTED)
            attempts = attempt.number
            _heartbeat(request, attempt.number, ended.detail.get("error") if ended else None)

            ended = await self._run_attempt(request, attempt, calls, call)
            for observer in self._observers:
                observer(request, ended)
            if ended.outcome is AttemptOutcome.OK:
                # A parcel that is labelled with an earlier address is not dispatched.
                version = attempt.address_version if request.step is Step.DISPATCH else None
                if await self._complete(request, ended, version):
                    log_step.info("step done", attempt=attempt.number, duration_ms=ended.duration_ms)
                    return StepResult(StepStatus.DONE, attempt.number, last_error)
                # The order was aborted or its address changed; the next start_next_attempt shows which.
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
                version = attempt.address_version if request.step in ADDRESS_STEPS else None
                message = str(ended.detail.get("error", ""))
                return StepResult(StepStatus.DECLINED, attempt.number, message, version)
            failures_in_a_row += 1
            last_error = str(ended.detail["error"])
            if request.single_attempt:
                await self._orders.end_attempt(request.order_id, request.step, ended, is_retried=True)
                _fail_execution(request, calls, ended)

    async def _run_attempt(
        self, request: StepRequest, attempt: StartedAttempt, calls: StepCalls, call: GatewayCall
    ) -> AttemptResult:
        started = perf_counter()
        detail: dict[str, Any] = {}
        is_busy = False
        timeout = calls.timeout.total_seconds()
        try:
            async with (
                asyncio.timeout(timeout),
                _heartbeats(request, attempt.number, calls.timeout),
                calls.slots(),
            ):
                response = await self._call(request, attempt, call)
            detail = response or {}
            outcome = AttemptOutcome.OK
        except TimeoutError:
            outcome = AttemptOutcome.TIMEOUT
            detail = {"error": f"no response within {timeout * 1000:.0f} ms"}
        except GatewayDeclined as error:
            outcome, detail = AttemptOutcome.DECLINED, {"error": str(error)}
        except GatewayError as error:
            outcome, detail = AttemptOutcome.ERROR, {"error": str(error)}
            is_busy = isinstance(error, GatewayBusy)
        if not is_busy:
            calls.end(outcome)
        return AttemptResult(attempt.number, outcome, round((perf_counter() - started) * 1000, 3), detail)

    async def _call(
        self, request: StepRequest, attempt: StartedAttempt, call: GatewayCall
    ) -> dict[str, Any] | None:
        if self._fault_injector is None:
            return await call(attempt)
        named = Call(request.order_id, request.step, attempt.number)
        return await self._fault_injector.call(named, lambda: call(attempt))

    async def _complete(self, request: StepRequest, ended: AttemptResult, label_version: int | None) -> bool:
        # The gateway call has succeeded. Waiting for the database is cheaper than repeating the call.
        for _ in range(DATABASE_RETRIES):
            try:
                return await self._orders.complete_step(request.order_id, request.step, ended, label_version)
            except DatabaseError as error:
                _heartbeat(request, ended.number, str(error))
                await asyncio.sleep(DATABASE_BACKOFF.total_seconds())
        return await self._orders.complete_step(request.order_id, request.step, ended, label_version)

    async def _stop(
        self,
        request: StepRequest,
        ended: AttemptResult | None,
        attempts: int,
        otherwise: StepStatus,
        delay: timedelta = timedelta(0),
    ) -> StepResult:
        """Close the last attempt; return why none follows, or `otherwise` if the order gives no reason.

        `delay` is the delay before the next attempt.
        """
        if ended is not None:
            is_retried = otherwise is StepStatus.UNFINISHED
            await self._orders.end_attempt(request.order_id, request.step, ended, is_retried=is_retried)
        snapshot = await self._orders.snapshot(request.order_id)
        if snapshot is None:
            raise LookupError(request.order_id)
        error = str(ended.detail.get("error", "")) if ended is not None else ""
        status = otherwise
        if request.step in COMPENSATIONS:
            # A compensation is not due once the order has its outcome: nothing is left to compensate.
            status = StepStatus.DONE if otherwise is StepStatus.ABORTED else otherwise
        elif snapshot.abort_reason is not None:
            status = StepStatus.ABORTED
        elif snapshot.has_completed(request.step):
            status = StepStatus.DONE
        if status is StepStatus.UNFINISHED and request.time_budget_seconds is None:
            # A step without a time budget must not return UNFINISHED: Temporal retries it.
            raise ApplicationError(
                error or "the worker is stopping; another worker resumes the step",
                type=RETRY,
                next_retry_delay=max(delay, HAND_OVER_DELAY),
                category=ApplicationErrorCategory.BENIGN,
            )
        return StepResult(status, attempts, error)


def _heartbeat(request: StepRequest, attempt: int, last_error: str | None) -> None:
    # Local activities have no heartbeats, and a single attempt ends before one is due.
    if not activity.info().is_local and not request.single_attempt:
        activity.heartbeat(attempt, last_error)


def _fail_execution(request: StepRequest, calls: StepCalls, ended: AttemptResult) -> NoReturn:
    """Fail the execution of an activity whose single attempt failed, so that Temporal shows the failure."""
    delay = _retry_delay(request, calls, ended, failures_in_a_row=activity.info().attempt)
    raise ApplicationError(
        str(ended.detail["error"]),
        type=FAILURE_TYPES[ended.outcome],
        next_retry_delay=max(delay, HAND_OVER_DELAY),
        category=ApplicationErrorCategory.BENIGN,
    )


@asynccontextmanager
async def _heartbeats(request: StepRequest, attempt: int, timeout: timedelta) -> AsyncIterator[None]:
    """Send heartbeats during an attempt that can take longer than HEARTBEAT_INTERVAL."""
    if timeout <= HEARTBEAT_INTERVAL:
        yield
        return

    async def send() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL.total_seconds())
            _heartbeat(request, attempt, None)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        task.cancel()


def _retry_delay(
    request: StepRequest, calls: StepCalls, ended: AttemptResult | None, failures_in_a_row: int
) -> timedelta:
    """Return the delay before the next attempt: at first that of the gateway's policy, after QUICK_ATTEMPTS
    exponential, up to 30 s."""
    if ended is None or ended.outcome is AttemptOutcome.OK:
        return timedelta(0)
    if ended.number >= QUICK_ATTEMPTS:
        time_left = None if request.not_after is None else request.not_after - datetime.now(UTC)
        return backoff(FIRST_LONG_BACKOFF, ended.number - QUICK_ATTEMPTS, random.random(), time_left)
    return calls.backoff(failures_in_a_row, ended.number, ended.outcome)


def _stop_status(
    request: StepRequest, calls: StepCalls, delay: timedelta, elapsed_seconds: float, *, is_first: bool
) -> StepStatus | None:
    """Return why no further attempt may start, or None when one may."""
    if request.not_after is not None and datetime.now(UTC) + delay >= request.not_after:
        return StepStatus.OUT_OF_TIME
    if activity.is_worker_shutdown() or delay > MAX_QUICK_BACKOFF:
        return StepStatus.UNFINISHED
    if calls.timeout > MAX_LOCAL_TIMEOUT and activity.info().is_local:
        return StepStatus.UNFINISHED
    if request.time_budget_seconds is None or is_first:
        return None
    return StepStatus.UNFINISHED if elapsed_seconds >= request.time_budget_seconds else None
