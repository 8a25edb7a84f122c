"""Limits of the calls to one gateway in this process: a bulkhead and a circuit breaker."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from db.domain import AttemptOutcome
from orchestrator.errors import GatewayError
from orchestrator.settings.gateways import SIMULATED_CALLS, CallPolicy

_FAILURES = (AttemptOutcome.ERROR, AttemptOutcome.TIMEOUT)


class GatewayBusy(GatewayError):
    """The maximum number of calls to the gateway is in progress."""


class CallGuard:
    """The bulkhead and the circuit breaker of one gateway.

    The circuit opens after `breaker_failures` failures in a row. While it is open, no call starts. After
    `breaker_seconds` one call at a time starts, and the first success closes the circuit.
    """

    def __init__(self, name: str, policy: CallPolicy) -> None:
        self._name = name
        self._policy = policy
        self._slots = asyncio.Semaphore(policy.max_calls) if policy.max_calls else None
        self._failures = 0
        self._closed_until = 0.0

    @property
    def delay(self) -> timedelta:
        """The time until the next call may start; 0 while the circuit is closed."""
        return timedelta(seconds=max(self._closed_until - monotonic(), 0.0))

    def start(self) -> None:
        """Record that an attempt starts. With an open circuit it is a trial, and the next one must wait for
        it."""
        if self._is_open:
            self._closed_until = monotonic() + self._policy.breaker_seconds

    def end(self, outcome: AttemptOutcome) -> None:
        if outcome not in _FAILURES:
            self._failures, self._closed_until = 0, 0.0
            return
        self._failures += 1
        if self._is_open:
            self._closed_until = monotonic() + self._policy.breaker_seconds

    @property
    def _is_open(self) -> bool:
        return 0 < self._policy.breaker_failures <= self._failures

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot of the bulkhead. Raises GatewayBusy if none is free within half of the attempt
        timeout."""
        if self._slots is None:
            yield
            return
        try:
            async with asyncio.timeout(self._policy.timeout / 2):
                await self._slots.acquire()
        except TimeoutError:
            raise GatewayBusy(
                f"{self._policy.max_calls} calls to the {self._name} gateway are in progress (max_calls)"
            ) from None
        try:
            yield
        finally:
            self._slots.release()


@dataclass(frozen=True)
class StepCalls:
    """How the attempts of a step call its gateways. One attempt may call two gateways, within `timeout`."""

    policy: CallPolicy
    guards: Sequence[CallGuard] = ()

    @property
    def timeout(self) -> timedelta:
        return timedelta(seconds=self.policy.timeout)

    @property
    def delay(self) -> timedelta:
        """The time until every gateway of the step accepts a call."""
        return max((guard.delay for guard in self.guards), default=timedelta(0))

    def backoff(self, failures_in_a_row: int, attempt: int, outcome: AttemptOutcome) -> timedelta:
        """Return the delay after a failed attempt: exponential, with full jitter if the policy says so.

        Without jitter, none after a timeout, which took long enough; the maximum after a declined call, which
        rarely succeeds soon.
        """
        first, longest = self.policy.first_backoff, self.policy.max_backoff
        if outcome is AttemptOutcome.DECLINED:
            return timedelta(seconds=longest)
        if self.policy.full_jitter:
            return timedelta(seconds=random.uniform(0, min(first * (1 << min(attempt - 1, 10)), longest)))
        if outcome is AttemptOutcome.TIMEOUT:
            return timedelta(0)
        return timedelta(seconds=min(first * (1 << min(failures_in_a_row - 1, 10)), longest))

    @asynccontextmanager
    async def slots(self) -> AsyncIterator[None]:
        """Hold a slot of every gateway of the step. Raises GatewayBusy."""
        async with AsyncExitStack() as stack:
            for guard in self.guards:
                await stack.enter_async_context(guard.slot())
            yield

    def start(self) -> None:
        for guard in self.guards:
            guard.start()

    def end(self, outcome: AttemptOutcome) -> None:
        for guard in self.guards:
            guard.end(outcome)


SIMULATED_STEP = StepCalls(SIMULATED_CALLS)
