"""Limits of gateway calls: policy, bulkhead, circuit breaker, and the needs that follow from the settings."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from db.domain import AttemptOutcome, Step
from orchestrator.api.context import Context
from orchestrator.api.routes.operations import set_faults
from orchestrator.api.schemas.requests import NamedFaultsBody
from orchestrator.api.schemas.responses import FaultsResponse
from orchestrator.cli import system
from orchestrator.deadlines import SIMULATED_NEEDS
from orchestrator.errors import FaultsUnavailable, SettingsError
from orchestrator.gateways import call_guard
from orchestrator.gateways.call_guard import CallGuard, GatewayBusy, StepCalls
from orchestrator.gateways.registry import (
    call_policy,
    faults_unavailable,
    not_simulated,
    provider,
    time_needs,
)
from orchestrator.settings import Settings
from orchestrator.settings.gateways import REMOTE_CALLS, SIMULATED_CALLS, CallPolicy

EXTERNAL = "postgresql://orders@db.example.com/orders"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(call_guard, "monotonic", clock)
    return clock


def chosen(**changes: object) -> Settings:
    unset = {"payment_gateway": None, "warehouse_gateway": None, "carrier_gateway": None}
    return Settings.model_validate(unset | changes)


def test_the_circuit_opens_after_failures_in_a_row_and_closes_after_a_successful_trial(clock: Clock) -> None:
    guard = CallGuard("payment", CallPolicy(breaker_failures=3, breaker_seconds=5))
    for outcome in (AttemptOutcome.ERROR, AttemptOutcome.TIMEOUT):
        guard.end(outcome)
    assert guard.delay.total_seconds() == 0
    guard.end(AttemptOutcome.ERROR)
    assert guard.delay.total_seconds() == 5
    clock.now += 5
    assert guard.delay.total_seconds() == 0
    guard.start()
    assert guard.delay.total_seconds() == 5, "a second call waits for the trial"
    guard.end(AttemptOutcome.OK)
    assert guard.delay.total_seconds() == 0


def test_a_decline_is_a_response_and_closes_the_circuit(clock: Clock) -> None:
    guard = CallGuard("payment", CallPolicy(breaker_failures=2))
    for outcome in (AttemptOutcome.ERROR, AttemptOutcome.DECLINED, AttemptOutcome.ERROR):
        guard.end(outcome)
    assert guard.delay.total_seconds() == 0


async def test_the_bulkhead_limits_the_calls_at_a_time() -> None:
    guard = CallGuard("payment", CallPolicy(max_calls=2, timeout=0.01))
    running, most = 0, 0
    release = asyncio.Event()

    async def call() -> str:
        nonlocal running, most
        try:
            async with guard.slot():
                running += 1
                most = max(most, running)
                await release.wait()
                running -= 1
        except GatewayBusy as error:
            return str(error)
        return "done"

    calls = [asyncio.create_task(call()) for _ in range(3)]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == ["2 calls to the payment gateway are in progress (max_calls)"]
    release.set()
    assert sorted(await asyncio.gather(*calls))[1:] == ["done", "done"]
    assert most == 2


def test_backoff_with_full_jitter_is_random_and_has_a_maximum() -> None:
    calls = StepCalls(CallPolicy(first_backoff=0.1, max_backoff=0.4))
    delays = [calls.backoff(1, 10, AttemptOutcome.TIMEOUT).total_seconds() for _ in range(200)]
    assert 0 <= min(delays) < 0.1
    assert 0.3 < max(delays) <= 0.4
    assert max(calls.backoff(1, 1, AttemptOutcome.ERROR).total_seconds() for _ in range(50)) <= 0.1


def test_simulated_gateways_have_the_measured_delays() -> None:
    calls = StepCalls(SIMULATED_CALLS)
    errors = [calls.backoff(n, n, AttemptOutcome.ERROR).total_seconds() * 1000 for n in (1, 2, 3, 4, 5)]
    assert errors == pytest.approx([20, 40, 80, 160, 250])
    assert calls.backoff(3, 3, AttemptOutcome.TIMEOUT).total_seconds() == 0


def test_simulated_gateways_have_the_measured_needs() -> None:
    assert time_needs(chosen()) == SIMULATED_NEEDS


def test_the_longest_timeout_of_its_gateways_is_that_of_a_step() -> None:
    needs = time_needs(
        chosen(warehouse_calls="timeout=0.7 compensation=4", carrier_calls="timeout=0.4 need=1")
    )
    assert needs.attempts[Step.RECALL] == 0.7
    assert needs.attempts[Step.VALIDATE] == 0.4
    assert needs.steps[Step.DISPATCH] == 1
    assert needs.steps[Step.CHARGE] == SIMULATED_NEEDS.steps[Step.CHARGE]
    assert needs.compensation == 4


def test_only_a_provider_that_creates_payments_is_called_to_validate() -> None:
    http = chosen(payment_gateway="http", http_gateway_url="http://127.0.0.1:1")
    stripe = chosen(payment_gateway="stripe", stripe_api_key="sk_test_1")
    assert [time_needs(each).attempts[Step.VALIDATE] for each in (http, stripe)] == [0.2, 2.0]


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        ("timeout=0", "timeout: Input should be greater than 0"),
        ("speed=3", "speed: Extra inputs are not permitted"),
        ("first_backoff=3", "first_backoff is longer than max_backoff"),
    ],
)
def test_wrong_limits_are_named(monkeypatch: pytest.MonkeyPatch, calls: str, problem: str) -> None:
    monkeypatch.setenv("CARRIER_CALLS", calls)
    with pytest.raises(SettingsError, match=problem):
        Settings.load()


def test_the_setting_changes_single_values() -> None:
    policy = call_policy(chosen(payment_calls="timeout=0.5, max_calls=7"), "payment")
    assert policy == SIMULATED_CALLS.model_copy(update={"timeout": 0.5, "max_calls": 7})
    assert REMOTE_CALLS.overridden(None) == REMOTE_CALLS


def test_only_the_embedded_stack_has_default_gateways() -> None:
    assert not_simulated(chosen()) is faults_unavailable(chosen()) is None
    real = chosen(database_url=EXTERNAL, payment_gateway="stripe")
    assert not_simulated(real) == "PAYMENT_GATEWAY is stripe"
    assert faults_unavailable(real) == (
        "Faults can only be injected into simulated gateways, and PAYMENT_GATEWAY is stripe."
    )
    with pytest.raises(SettingsError, match="CARRIER_GATEWAY is not set: with an external database"):
        provider(chosen(database_url=EXTERNAL), "carrier")


def test_the_command_faults_names_the_gateway_that_is_not_simulated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    problem = faults_unavailable(chosen(database_url=EXTERNAL, payment_gateway="stripe"))
    system._show(FaultsResponse.of(None, problem).model_dump(), as_json=False)
    shown = capsys.readouterr().out
    assert shown.startswith("none, seed 0\nThe profile has no effect: Faults can only be injected")
    assert "PAYMENT_GATEWAY is stripe" in shown


def test_an_unknown_gateway_lists_the_known_ones() -> None:
    with pytest.raises(
        SettingsError, match=r"there is no gateway 'ups'. Choose one of: http, simulated, stripe"
    ):
        provider(chosen(carrier_gateway="ups"), "carrier")


async def test_faults_cannot_be_set_for_real_gateways() -> None:
    settings = chosen(carrier_gateway="http", http_gateway_url="http://127.0.0.1:1")
    context = cast(Context, SimpleNamespace(settings=settings))
    body = NamedFaultsBody(profile="assignment")
    with pytest.raises(FaultsUnavailable, match=r"simulated gateways, and CARRIER_GATEWAY is http\."):
        await set_faults(body, context)
