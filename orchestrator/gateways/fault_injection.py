"""Fault injection for gateway calls: profiles of fault rates, reproducible by seed.

Whether a call fails depends on a hash of seed, order, step and attempt only. The same orders therefore meet
the same faults, independent of timing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from math import log
from typing import Any, TypeVar

from db.domain import COMPENSATIONS, GATEWAY_STEPS, Step
from orchestrator.errors import GatewayDeclined, GatewayError

T = TypeVar("T")

HANG_SECONDS = 300.0


@dataclass(frozen=True)
class Call:
    """Identifies one gateway call."""

    order_id: str
    step: Step
    attempt: int


@dataclass(frozen=True)
class Rates:
    """The share of calls, 0 to 1, that meet each fault; the rest succeed.

    `slow` calls succeed after an exponentially distributed delay with mean `slow_mean_ms`. `lost_answer`
    calls take effect, then fail or hang (half each), so that the caller does not know the effect.
    """

    error: float = 0.0
    hang: float = 0.0
    slow: float = 0.0
    slow_mean_ms: float = 100.0
    decline: float = 0.0
    lost_answer: float = 0.0

    def validation_errors(self) -> list[str]:
        shares = {name: share for name, share in asdict(self).items() if name != "slow_mean_ms"}
        found = [f"{name} must be between 0 and 1" for name, share in shares.items() if not 0 <= share <= 1]
        if sum(shares.values()) > 1 + 1e-9:
            found.append("the rates of one step add up to more than 1")
        if not 0 < self.slow_mean_ms <= 60_000:
            found.append("slow_mean_ms must be above 0 and at most 60000")
        return found


@dataclass(frozen=True)
class FaultProfile:
    """Default fault rates, and the rates of single steps. Compensations are never declined."""

    name: str
    seed: int
    default: Rates
    steps: Mapping[Step, Rates]

    def rates(self, step: Step) -> Rates:
        return self.steps.get(step, self.default)

    def to_json(self) -> dict[str, Any]:
        return {
            "default": asdict(self.default),
            "steps": {step.value: asdict(rates) for step, rates in self.steps.items()},
        }

    @classmethod
    def from_json(cls, name: str, seed: int, rates: Mapping[str, Any]) -> "FaultProfile":
        """Parse the output of `to_json`, or a user's JSON. Raises ValueError with the first error."""
        try:
            default = Rates(**rates.get("default", {}))
            steps = {Step(step): Rates(**own) for step, own in rates.get("steps", {}).items()}
            errors = [error for each in (default, *steps.values()) for error in each.validation_errors()]
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"invalid fault rates: {error}") from None
        for step in steps:
            if step not in GATEWAY_STEPS:
                raise ValueError(f"step {step} calls no gateway")
        if errors:
            raise ValueError(errors[0])
        return cls(name, seed, default, steps)


PROFILES: dict[str, Rates] = {
    "none": Rates(),
    "assignment": Rates(error=0.33, hang=0.34),
    "lossy": Rates(lost_answer=0.5),
    "slow": Rates(slow=1.0, slow_mean_ms=100.0),
    "outage": Rates(error=0.5, hang=0.5),
}
"""The named profiles. Any other profile is custom."""


def named_profile(name: str, seed: int = 0) -> FaultProfile:
    """Raises ValueError for a name that is not one of PROFILES."""
    if name not in PROFILES:
        raise ValueError(f"Unknown fault profile {name!r}. Choose one of: {', '.join(PROFILES)}")
    return FaultProfile(name, seed, PROFILES[name], {})


class FaultInjector:
    """Injects the faults of `profile`, which may be replaced at any time."""

    def __init__(self, profile: FaultProfile) -> None:
        self.profile = profile

    async def call(self, call: Call, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`, with the faults of the profile before or after it."""
        rates = self.profile.rates(call.step)
        share = self._draw(call, "fault")
        if (share := share - rates.error) < 0:
            raise GatewayError(f"{call.step} failed (simulated)")
        if (share := share - rates.hang) < 0:
            await asyncio.sleep(HANG_SECONDS)
            raise GatewayError(f"{call.step} hung (simulated)")
        if (share := share - rates.decline) < 0:
            if call.step in COMPENSATIONS:
                return await work()
            raise GatewayDeclined(f"{call.step} declined (simulated)")
        if (share := share - rates.slow) < 0:
            await asyncio.sleep(self._delay_seconds(call, rates.slow_mean_ms))
            return await work()
        if share - rates.lost_answer < 0:
            await work()
            if self._draw(call, "lost") < 0.5:
                await asyncio.sleep(HANG_SECONDS)
            raise GatewayError(f"the response to {call.step} was lost (simulated)")
        return await work()

    def _draw(self, call: Call, purpose: str) -> float:
        """Return a number in [0, 1) that depends only on the seed and the call."""
        text = f"{self.profile.seed}/{purpose}/{call.order_id}/{call.step}/{call.attempt}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) / 2**64

    def _delay_seconds(self, call: Call, mean_ms: float) -> float:
        return -log(1.0 - self._draw(call, "delay")) * mean_ms / 1000
