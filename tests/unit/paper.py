"""Orders lived through on paper: the product's own loop of attempts, in time that is skipped, not waited."""

import asyncio
import logging
import selectors
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import structlog
from temporalio.testing import ActivityEnvironment

from db.domain import SAMPLE_ITEMS, Step
from db.orders import AttemptResult, StartedAttempt
from orchestrator.activities import step_runner as attempts_module
from orchestrator.activities.step_runner import StepRunner
from orchestrator.deadlines import ATTEMPT_TIMEOUT
from orchestrator.errors import GatewayDeclined, GatewayError
from orchestrator.messages import StepRequest, StepResult, StepStatus
from tests.orders import ADDRESS, NO_FAULTS

T = TypeVar("T")

Script = Iterable[tuple[str, timedelta]]
"""What the outside does in turn ("ok", "error", "timeout" or "declined"), and how long it takes."""

HANGS = ("timeout", ATTEMPT_TIMEOUT)
SILENT = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class _SkippingSelector(selectors.DefaultSelector):
    """Instead of waiting for the next timer, makes it that late."""

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


class Paper:
    """One order's time and attempts. `begun` are the attempts of each step, by the moment they began."""

    def __init__(self, begins_at: datetime) -> None:
        self._begins_at = begins_at
        self.begun: dict[Step, list[datetime]] = {}
        self._attempts = StepRunner(self, NO_FAULTS)  # type: ignore[arg-type]

    def now(self, _zone: object = None) -> datetime:
        return self._begins_at + timedelta(seconds=asyncio.get_running_loop().time())

    async def carry_out(
        self, step: Step, script: Script, not_after: datetime | None, time_budget: timedelta
    ) -> StepResult:
        """Tries a step as the workflow has it tried: with patience at first, then until it has an end.

        When the script is over, the outside hangs for good.
        """
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
            request = StepRequest("on-paper", step, not_after, time_budget_seconds)
            result: StepResult = await ActivityEnvironment().run(self._attempts.run, request, call)
            return result

        result = await tried(time_budget.total_seconds())
        return await tried(None) if result.status is StepStatus.UNFINISHED else result

    # What the loop asks of the books.

    async def start_next_attempt(
        self, order_id: str, step: Step, _ended: AttemptResult | None
    ) -> StartedAttempt:
        moments = self.begun.setdefault(step, [])
        moments.append(self.now())
        items = list(SAMPLE_ITEMS)
        return StartedAttempt(len(moments), order_id, "payment", 4_200, ADDRESS, 1, items, owns_payment=True)

    async def end_attempt(self, _order_id: str, _step: Step, _ended: AttemptResult) -> None:
        return None

    async def complete_step(self, *_: object) -> bool:
        return True

    async def snapshot(self, _order_id: str) -> SimpleNamespace:
        return SimpleNamespace(abort_reason=None, has_completed=lambda _step: False)


def on_paper(begins_at: datetime, work: Callable[[Paper], Coroutine[Any, Any, T]]) -> T:
    """The result of work on a new paper whose clock starts at `begins_at`."""

    async def worked() -> T:
        paper = Paper(begins_at)
        loop = asyncio.get_running_loop()
        with patch.multiple(attempts_module, datetime=paper, perf_counter=loop.time, log=SILENT):
            return await work(paper)

    with asyncio.Runner(loop_factory=_SkippingLoop) as runner:
        return runner.run(worked())
