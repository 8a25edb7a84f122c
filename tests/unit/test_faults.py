"""Fault profiles: repeatable draws, true rates, and nothing unreadable accepted."""

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
    FaultProfile,
    ProfileFaultInjector,
    Rates,
    named_profile,
)

MANY = 4_000
TOLERANCE = 0.03
"""About four standard deviations of a share of one half among MANY draws."""


class PaperTime:
    """Sleeps on paper: a sleep takes no time and is written down."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def time(monkeypatch):
    paper = PaperTime()
    monkeypatch.setattr(fault_injection.asyncio, "sleep", paper.sleep)
    return paper


def calls(step: Step = Step.CHARGE, count: int = MANY) -> list[Call]:
    return [Call(f"order-{number // 4}", step, number % 4 + 1) for number in range(count)]


async def fate(point: ProfileFaultInjector, call: Call, time: PaperTime) -> str:
    """What became of one call: ok, slow, error, hang, decline, lost (failed after work), lost-hang."""
    time.slept.clear()
    did_work = False

    async def work() -> str:
        nonlocal did_work
        did_work = True
        return "done"

    try:
        assert await point.call(call, work) == "done"
    except GatewayDeclined:
        assert not did_work
        return "decline"
    except GatewayError:
        hung = time.slept == [HANG_SECONDS]
        if did_work:
            return "lost-hang" if hung else "lost"
        return "hang" if hung else "error"
    assert did_work
    return "slow" if time.slept else "ok"


async def fates(profile: FaultProfile, time: PaperTime, step: Step = Step.CHARGE) -> list[str]:
    point = ProfileFaultInjector(profile)
    return [await fate(point, call, time) for call in calls(step)]


def custom(seed: int = 1, **rates: float) -> FaultProfile:
    return FaultProfile("custom", seed, Rates(**rates), {})


async def test_the_same_seed_meets_the_same_faults(time):
    mixed = {"error": 0.2, "hang": 0.2, "decline": 0.1, "slow": 0.2, "lost_answer": 0.2}
    assert await fates(custom(7, **mixed), time) == await fates(custom(7, **mixed), time)


async def test_another_seed_meets_other_faults(time):
    first, second = [await fates(custom(seed, error=0.5), time) for seed in (1, 2)]
    agreement = fmean(one == other for one, other in zip(first, second, strict=True))
    assert abs(agreement - 0.5) < TOLERANCE


async def test_another_attempt_of_the_same_step_draws_anew(time):
    drawn = await fates(custom(error=0.5), time)
    following = [one == other for one, other in zip(drawn[::4], drawn[1::4], strict=True)]
    assert abs(fmean(following) - 0.5) < 2 * TOLERANCE


@pytest.mark.parametrize("step", GATEWAY_STEPS)
async def test_the_assignment_raises_in_33_and_hangs_in_34_of_100_calls_of_every_step(step, time):
    shares = Counter(await fates(named_profile("assignment", seed=3), time, step))
    assert abs(shares["error"] / MANY - 0.33) < TOLERANCE
    assert abs(shares["hang"] / MANY - 0.34) < TOLERANCE
    assert abs(shares["ok"] / MANY - 0.33) < TOLERANCE
    assert set(shares) == {"error", "hang", "ok"}


async def test_every_rate_of_a_mixed_profile_holds(time):
    rates = {"error": 0.1, "hang": 0.15, "decline": 0.2, "slow": 0.25, "lost_answer": 0.2}
    shares = Counter(await fates(custom(5, **rates), time))
    for name in ("error", "hang", "decline", "slow"):
        assert abs(shares[name] / MANY - rates[name]) < TOLERANCE, name
    assert abs(shares["lost"] / MANY - 0.1) < TOLERANCE
    assert abs(shares["lost-hang"] / MANY - 0.1) < TOLERANCE
    assert abs(shares["ok"] / MANY - 0.1) < TOLERANCE


async def test_a_lossy_outside_does_the_work_and_loses_half_of_the_answers(time):
    shares = Counter(await fates(named_profile("lossy", seed=2), time))
    assert set(shares) == {"ok", "lost", "lost-hang"}
    assert abs(shares["ok"] / MANY - 0.5) < TOLERANCE


async def test_slow_answers_are_exponentially_distributed_around_their_mean(time):
    point = ProfileFaultInjector(custom(slow=1.0, slow_mean_ms=200.0))
    delays = []
    for call in calls():
        assert await fate(point, call, time) == "slow"
        delays += time.slept
    assert abs(fmean(delays) - 0.2) < 0.02
    # An exponential distribution has its median at ln 2 of its mean.
    assert abs(sorted(delays)[MANY // 2] - 0.2 * 0.693) < 0.02


@pytest.mark.parametrize("name", ["none"])
async def test_without_faults_every_call_works_at_once(name, time):
    assert set(await fates(named_profile(name), time)) == {"ok"}


async def test_in_an_outage_no_call_works(time):
    assert set(await fates(named_profile("outage"), time)) == {"error", "hang"}


@pytest.mark.parametrize("step", COMPENSATIONS)
async def test_a_compensation_is_never_declined_nor_delayed_in_place_of_it(step, time):
    assert set(await fates(custom(decline=1.0), time, step)) == {"ok"}
    shares = Counter(await fates(custom(decline=0.5, error=0.2), time, step))
    assert set(shares) == {"ok", "error"}


async def test_a_step_with_rates_of_its_own_uses_them(time):
    profile = FaultProfile("custom", 1, Rates(error=1.0), {Step.REFUND: Rates()})
    assert set(await fates(profile, time, Step.CHARGE)) == {"error"}
    assert set(await fates(profile, time, Step.REFUND)) == {"ok"}


async def test_a_new_profile_is_in_force_with_the_next_call(time):
    point = ProfileFaultInjector(named_profile("none"))
    call = Call("one", Step.CHARGE, 1)
    assert await fate(point, call, time) == "ok"
    point.profile = custom(error=1.0)
    assert await fate(point, call, time) == "error"


async def test_a_hanging_call_can_be_cut_short_by_its_caller():
    point = ProfileFaultInjector(custom(hang=1.0))

    async def work() -> None:
        raise AssertionError("a hanging call does no work")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await point.call(Call("one", Step.CHARGE, 1), work)


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
def test_a_profile_survives_the_way_through_json(default, steps, seed):
    profile = FaultProfile("custom", seed, default, steps)
    on_paper = json.loads(json.dumps(profile.to_json()))
    assert FaultProfile.from_json("custom", seed, on_paper) == profile


@pytest.mark.parametrize("name", PROFILES)
def test_every_named_profile_has_legal_rates_and_survives_json(name):
    profile = named_profile(name, seed=9)
    assert profile.default.problems() == []
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
def test_unusable_rates_are_refused_with_a_sentence(rates):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        FaultProfile.from_json("custom", 0, rates)


def test_an_unknown_profile_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ValueError, match="Choose one of: none, assignment"):
        named_profile("no-such-profile")


def test_without_rates_a_custom_profile_has_no_faults():
    assert FaultProfile.from_json("custom", 0, {}) == FaultProfile("custom", 0, Rates(), {})
