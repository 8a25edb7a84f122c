"""Fault injection: reproducible draws, correct rates, and validation of profiles."""

import asyncio
import json
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.domain import COMPENSATIONS, GATEWAY_STEPS, Step
from orchestrator.errors import GatewayDeclined, GatewayError
from orchestrator.gateways import fault_injection
from orchestrator.gateways.fault_injection import (
    HANG_SECONDS,
    PROFILES,
    Call,
    FaultInjector,
    FaultProfile,
    Rates,
    named_profile,
)

MANY = 4_000
TOLERANCE = 0.03
"""About four standard deviations of a share of one half among MANY draws."""


class RecordedSleep:
    """Records sleeps instead of waiting."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def time(monkeypatch):
    recorded = RecordedSleep()
    monkeypatch.setattr(fault_injection.asyncio, "sleep", recorded.sleep)
    return recorded


def calls(step: Step = Step.CHARGE, count: int = MANY) -> list[Call]:
    return [Call(f"order-{number // 4}", step, number % 4 + 1) for number in range(count)]


async def outcome_of(injector: FaultInjector, call: Call, time: RecordedSleep) -> str:
    """Return how one call ended: ok, slow, error, hang, decline, lost (failed after its effect),
    lost-hang."""
    time.slept.clear()
    took_effect = False

    async def work() -> str:
        nonlocal took_effect
        took_effect = True
        return "done"

    try:
        assert await injector.call(call, work) == "done"
    except GatewayDeclined:
        assert not took_effect
        return "decline"
    except GatewayError:
        hung = time.slept == [HANG_SECONDS]
        if took_effect:
            return "lost-hang" if hung else "lost"
        return "hang" if hung else "error"
    assert took_effect
    return "slow" if time.slept else "ok"


async def outcomes_of(profile: FaultProfile, time: RecordedSleep, step: Step = Step.CHARGE) -> list[str]:
    injector = FaultInjector(profile)
    return [await outcome_of(injector, call, time) for call in calls(step)]


def custom(seed: int = 1, **rates: float) -> FaultProfile:
    return FaultProfile("custom", seed, Rates(**rates), {})


async def test_the_same_seed_draws_the_same_faults(time):
    mixed = {"error": 0.2, "hang": 0.2, "decline": 0.1, "slow": 0.2, "lost_answer": 0.2}
    assert await outcomes_of(custom(7, **mixed), time) == await outcomes_of(custom(7, **mixed), time)


async def test_another_seed_draws_other_faults(time):
    first, second = [await outcomes_of(custom(seed, error=0.5), time) for seed in (1, 2)]
    agreement = fmean(one == other for one, other in zip(first, second, strict=True))
    assert abs(agreement - 0.5) < TOLERANCE


async def test_each_attempt_of_a_step_draws_independently(time):
    drawn = await outcomes_of(custom(error=0.5), time)
    following = [one == other for one, other in zip(drawn[::4], drawn[1::4], strict=True)]
    assert abs(fmean(following) - 0.5) < 2 * TOLERANCE


@pytest.mark.parametrize("step", GATEWAY_STEPS)
async def test_the_assignment_profile_raises_33_and_hangs_34_of_100_calls_of_every_step(step, time):
    shares = Counter(await outcomes_of(named_profile("assignment", seed=3), time, step))
    assert abs(shares["error"] / MANY - 0.33) < TOLERANCE
    assert abs(shares["hang"] / MANY - 0.34) < TOLERANCE
    assert abs(shares["ok"] / MANY - 0.33) < TOLERANCE
    assert set(shares) == {"error", "hang", "ok"}


async def test_every_rate_of_a_mixed_profile_holds(time):
    rates = {"error": 0.1, "hang": 0.15, "decline": 0.2, "slow": 0.25, "lost_answer": 0.2}
    shares = Counter(await outcomes_of(custom(5, **rates), time))
    for name in ("error", "hang", "decline", "slow"):
        assert abs(shares[name] / MANY - rates[name]) < TOLERANCE, name
    assert abs(shares["lost"] / MANY - 0.1) < TOLERANCE
    assert abs(shares["lost-hang"] / MANY - 0.1) < TOLERANCE
    assert abs(shares["ok"] / MANY - 0.1) < TOLERANCE


async def test_the_lossy_profile_loses_half_of_the_responses_after_the_effect(time):
    shares = Counter(await outcomes_of(named_profile("lossy", seed=2), time))
    assert set(shares) == {"ok", "lost", "lost-hang"}
    assert abs(shares["ok"] / MANY - 0.5) < TOLERANCE


async def test_delays_are_exponentially_distributed(time):
    injector = FaultInjector(custom(slow=1.0, slow_mean_ms=200.0))
    delays = []
    for call in calls():
        assert await outcome_of(injector, call, time) == "slow"
        delays += time.slept
    assert abs(fmean(delays) - 0.2) < 0.02
    # An exponential distribution has its median at ln 2 of its mean.
    assert abs(sorted(delays)[MANY // 2] - 0.2 * 0.693) < 0.02


@pytest.mark.parametrize("name", ["none"])
async def test_without_faults_every_call_succeeds_at_once(name, time):
    assert set(await outcomes_of(named_profile(name), time)) == {"ok"}


async def test_in_an_outage_no_call_succeeds(time):
    assert set(await outcomes_of(named_profile("outage"), time)) == {"error", "hang"}


@pytest.mark.parametrize("step", COMPENSATIONS)
async def test_a_compensation_is_never_declined(step, time):
    assert set(await outcomes_of(custom(decline=1.0), time, step)) == {"ok"}
    shares = Counter(await outcomes_of(custom(decline=0.5, error=0.2), time, step))
    assert set(shares) == {"ok", "error"}


async def test_a_step_uses_its_own_rates(time):
    profile = FaultProfile("custom", 1, Rates(error=1.0), {Step.REFUND: Rates()})
    assert set(await outcomes_of(profile, time, Step.CHARGE)) == {"error"}
    assert set(await outcomes_of(profile, time, Step.REFUND)) == {"ok"}


async def test_a_new_profile_is_active_from_the_next_call(time):
    injector = FaultInjector(named_profile("none"))
    call = Call("one", Step.CHARGE, 1)
    assert await outcome_of(injector, call, time) == "ok"
    injector.profile = custom(error=1.0)
    assert await outcome_of(injector, call, time) == "error"


async def test_a_hanging_call_can_be_cancelled():
    injector = FaultInjector(custom(hang=1.0))

    async def work() -> None:
        raise AssertionError("a hanging call takes no effect")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await injector.call(Call("one", Step.CHARGE, 1), work)


shares = st.floats(0, 0.2)
any_rates = st.builds(
    Rates,
    error=shares,
    hang=shares,
    slow=shares,
    decline=shares,
    lost_answer=shares,
    slow_mean_ms=st.floats(0.001, 60_000),
)


@given(any_rates, st.dictionaries(st.sampled_from(GATEWAY_STEPS), any_rates), st.integers(0, 2**62))
def test_a_profile_round_trips_through_json(default, steps, seed):
    profile = FaultProfile("custom", seed, default, steps)
    parsed = json.loads(json.dumps(profile.to_json()))
    assert FaultProfile.from_json("custom", seed, parsed) == profile


@pytest.mark.parametrize("name", PROFILES)
def test_every_named_profile_is_valid_and_round_trips_through_json(name):
    profile = named_profile(name, seed=9)
    assert profile.default.validation_errors() == []
    assert FaultProfile.from_json(name, 9, profile.to_json()) == profile


@pytest.mark.parametrize(
    "rates",
    [
        {"default": {"error": 1.1}},
        {"default": {"error": -0.1}},
        {"default": {"hang": float("nan")}},
        {"default": {"error": 0.6, "hang": 0.6}},
        {"default": {"slow_mean_ms": 0}},
        {"default": {"slow_mean_ms": 60_001}},
        {"default": {"slow_mean_ms": float("inf")}},
        {"default": {"no_such_rate": 0.1}},
        {"default": {"error": "0.5"}},
        {"default": {"error": None}},
        {"default": {"error": [0.5]}},
        {"default": None},
        {"default": [0.5]},
        {"default": 0.5},
        {"steps": {"no_such_step": {}}},
        {"steps": {"review": {"error": 0.1}}},
        {"steps": {"finish": {}}},
        {"steps": {"charge": {"error": 2}}},
        {"steps": {"charge": {"error": "x"}}},
        {"steps": {"charge": None}},
        {"steps": ["charge"]},
    ],
    ids=str,
)
def test_invalid_rates_are_rejected_with_a_message(rates):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        FaultProfile.from_json("custom", 0, rates)


def test_an_unknown_profile_is_rejected_with_the_list_of_profiles():
    with pytest.raises(ValueError, match="Choose one of: none, assignment"):
        named_profile("no-such-profile")


def test_without_rates_a_custom_profile_has_no_faults():
    assert FaultProfile.from_json("custom", 0, {}) == FaultProfile("custom", 0, Rates(), {})
