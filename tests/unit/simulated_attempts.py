"""Runs the StepRunner in simulated time: timers fire immediately and advance the clock."""

import asyncio
import logging
import selectors
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import structlog
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from db.domain import SAMPLE_ITEMS, Step
from db.orders import AttemptResult, StartedAttempt
from orchestrator.activities import step_runner
from orchestrator.activities.step_runner import StepRunner
from orchestrator.deadlines import ATTEMPT_TIMEOUT
from orchestrator.errors import GatewayDeclined, GatewayError
from orchestrator.messages.activities import StepRequest, StepResult, StepStatus
from tests.orders import ADDRESS, NO_FAULTS

T = TypeVar("T")

Script = Iterable[tuple[str, timedelta]]
"""The outcomes of the gateway calls ("ok", "error", "timeout" or "declined"), each with its duration."""

HANGS = ("timeout", ATTEMPT_TIMEOUT)
SILENT = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class _SkippingSelector(selectors.DefaultSelector):
    """Advances the time to the next timer instead of waiting."""

    now_seconds = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now_seconds += timeout or 0.0
        return super().select(0)


class _SkippingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now_seconds


class SimulatedAttempts:
    """An order's clock and attempts. `started` has the start times of the attempts of each step. Also the
    stub of the order repository."""

    def __init__(self, begins_at: datetime) -> None:
        self._begins_at = begins_at
        self.started: dict[Step, list[datetime]] = {}
        self._step_runner = StepRunner(self, NO_FAULTS)  # type: ignore[arg-type]

    def now(self, _zone: object = None) -> datetime:
        return self._begins_at + timedelta(seconds=asyncio.get_running_loop().time())

    async def run_step(
        self, step: Step, script: Script, not_after: datetime | None, time_budget: timedelta
    ) -> StepResult:
        """Run a step as the workflow does: first with a time budget, then without. After the script, calls
        hang."""
        gateways = iter(script)

        async def call(_attempt: StartedAttempt) -> dict[str, Any]:
            outcome, took = next(gateways, HANGS)
            await asyncio.sleep(300.0 if outcome == "timeout" else took.total_seconds())
            if outcome == "error":
                raise GatewayError
            if outcome == "declined":
                raise GatewayDeclined
            return {}

        async def tried(time_budget_seconds: float | None) -> StepResult:
            request = StepRequest("simulated", step, not_after, time_budget_seconds)
            result: StepResult = await ActivityEnvironment().run(self._step_runner.run, request, call)
            return result

        result = await tried(time_budget.total_seconds())
        while result.status is StepStatus.UNFINISHED:
            try:
                return await tried(None)
            except ApplicationError as error:
                # Temporal retries the activity.
                delay = error.next_retry_delay or timedelta(0)
                await asyncio.sleep(delay.total_seconds())
        return result

    # The methods of OrderRepository that StepRunner calls.

    async def start_next_attempt(
        self, order_id: str, step: Step, _ended: AttemptResult | None
    ) -> StartedAttempt:
        moments = self.started.setdefault(step, [])
        moments.append(self.now())
        items = list(SAMPLE_ITEMS)
        return StartedAttempt(len(moments), order_id, "payment", 4_200, ADDRESS, 1, items, owns_payment=True)

    async def end_attempt(
        self, _order_id: str, _step: Step, _ended: AttemptResult, *, is_retried: bool = False
    ) -> None:
        return None

    async def complete_step(self, *_: object) -> bool:
        return True

    async def snapshot(self, _order_id: str) -> SimpleNamespace:
        return SimpleNamespace(abort_reason=None, has_completed=lambda _step: False)


def in_simulated_time(begins_at: datetime, work: Callable[[SimulatedAttempts], Coroutine[Any, Any, T]]) -> T:
    """Return the result of `work` with a clock that starts at `begins_at`."""

    async def run_work() -> T:
        attempts = SimulatedAttempts(begins_at)
        loop = asyncio.get_running_loop()
        with patch.multiple(step_runner, datetime=attempts, perf_counter=loop.time, log=SILENT):
            return await work(attempts)

    with asyncio.Runner(loop_factory=_SkippingLoop) as runner:
        return runner.run(run_work())
