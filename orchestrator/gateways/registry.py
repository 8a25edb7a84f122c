"""Finds gateways by name: the built-in ones, and those of other packages by entry point."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from db.database import Database
from db.domain import GATEWAY_STEPS, Step
from orchestrator.deadlines import SIMULATED_NEEDS, TimeNeeds
from orchestrator.errors import SettingsError
from orchestrator.gateways.call_guard import CallGuard, StepCalls
from orchestrator.gateways.protocols import Carrier, Gateways, PaymentProvider, Warehouse
from orchestrator.settings import Settings
from orchestrator.settings.gateways import REMOTE_CALLS, ROLES, SIMULATED, SIMULATED_CALLS, CallPolicy

GROUP = "order_lifecycle.gateways"

_BUILT_IN = {
    SIMULATED: "orchestrator.gateways.simulated:PROVIDER",
    "http": "orchestrator.gateways.http:PROVIDER",
    "stripe": "orchestrator.gateways.stripe:PROVIDER",
}

_ROLES_OF_STEP: dict[Step, tuple[str, ...]] = {
    Step.RECEIVE: ("warehouse",),
    Step.VALIDATE: ("carrier", "payment"),
    Step.CHARGE: ("payment",),
    Step.PREPARE: ("warehouse",),
    Step.DISPATCH: ("carrier",),
    Step.RECALL: ("carrier", "warehouse"),
    Step.REFUND: ("payment",),
}


@dataclass(frozen=True)
class Context:
    """What a gateway is constructed from. `database` is the order database, for the simulated gateways."""

    settings: Settings
    database: Database


@dataclass(frozen=True)
class Provider:
    """The object that an entry point of GROUP names: a constructor for each service that the provider has,
    and the default policy of its calls. A constructor returns a context manager, which closes the
    connections. `creates_payment`: `create` of the payment provider makes a record there."""

    payment: Callable[[Context], AbstractAsyncContextManager[PaymentProvider]] | None = None
    warehouse: Callable[[Context], AbstractAsyncContextManager[Warehouse]] | None = None
    carrier: Callable[[Context], AbstractAsyncContextManager[Carrier]] | None = None
    calls: CallPolicy = REMOTE_CALLS
    creates_payment: bool = True
    settings_problem: Callable[[Settings], str | None] = lambda _: None
    """Returns why the provider cannot be used with these settings, as one sentence, or None."""


def gateway_name(settings: Settings, role: str) -> str | None:
    """Return the name of the gateway for `payment`, `warehouse` or `carrier`; None if the settings do not
    name one and must, because the stack is not the embedded one."""
    name: str | None = getattr(settings, f"{role}_gateway")
    return name or (SIMULATED if settings.uses_embedded_postgres else None)


def not_simulated(settings: Settings) -> str | None:
    """Return the first setting that names another gateway than a simulated one, or None."""
    for role in ROLES:
        if (name := gateway_name(settings, role)) != SIMULATED:
            return f"{role.upper()}_GATEWAY is {name}"
    return None


def faults_unavailable(settings: Settings) -> str | None:
    """Return why faults cannot be injected, as one sentence, or None."""
    setting = not_simulated(settings)
    return setting and f"Faults can only be injected into simulated gateways, and {setting}."


def provider(settings: Settings, role: str) -> Provider:
    """Return the provider of a role. Raises SettingsError with the correction."""
    variable = f"{role.upper()}_GATEWAY"
    name = gateway_name(settings, role)
    points = _entry_points()
    if name is None:
        raise SettingsError(
            f"{variable} is not set: with an external database, name the gateway of each service "
            f"({', '.join(sorted(points))})."
        )
    if name not in points:
        raise SettingsError(
            f"{variable}: there is no gateway {name!r}. Choose one of: {', '.join(sorted(points))}."
        )
    try:
        found = points[name].load()
    except ImportError as error:
        raise SettingsError(f"{variable}: install the packages of the gateway {name!r}: {error}.") from error
    if not isinstance(found, Provider) or getattr(found, role) is None:
        raise SettingsError(f"{variable}: the gateway {name!r} has no {role} service.")
    if (problem := found.settings_problem(settings)) is not None:
        raise SettingsError(f"{variable} is {name}: {problem}")
    return found


def call_policy(settings: Settings, role: str) -> CallPolicy:
    """Return the policy of a role's calls: the provider's defaults, with the values of the setting."""
    text: str | None = getattr(settings, f"{role}_calls")
    try:
        return provider(settings, role).calls.overridden(text)
    except ValueError as error:
        raise SettingsError(f"{role.upper()}_CALLS: {error}") from error


def time_needs(settings: Settings) -> TimeNeeds:
    """Return the times that the steps need with these gateways. Raises SettingsError."""
    policies = {role: call_policy(settings, role) for role in ROLES}
    calls = {step.value: _slowest(policies, settings, step) for step in GATEWAY_STEPS}
    return TimeNeeds(
        steps={
            step: need if calls.get(step, SIMULATED_CALLS) == SIMULATED_CALLS else calls[step].need
            for step, need in SIMULATED_NEEDS.steps.items()
        },
        attempts={step: policy.timeout for step, policy in calls.items()},
        compensation=max(policy.compensation for policy in policies.values()),
    )


@asynccontextmanager
async def open_gateways(settings: Settings, database: Database) -> AsyncIterator[Gateways]:
    """Construct the gateways of the settings, and close their connections at the end. Raises
    SettingsError."""
    context = Context(settings, database)
    policies = {role: call_policy(settings, role) for role in ROLES}
    guards = {
        role: CallGuard(role, policy)
        for role, policy in policies.items()
        if policy.max_calls or policy.breaker_failures
    }
    async with AsyncExitStack() as stack:
        opened: dict[str, Any] = {}
        for role in ROLES:
            constructor = getattr(provider(settings, role), role)
            opened[role] = await stack.enter_async_context(constructor(context))
        yield Gateways(
            payments=opened["payment"],
            warehouse=opened["warehouse"],
            carrier=opened["carrier"],
            calls={
                step: StepCalls(
                    _slowest(policies, settings, step),
                    [guards[role] for role in _roles(settings, step) if role in guards],
                )
                for step in GATEWAY_STEPS
            },
            creates_payment=provider(settings, "payment").creates_payment,
        )


def _roles(settings: Settings, step: Step) -> tuple[str, ...]:
    """Return the roles that a step calls; `validate` calls a payment provider only to create a payment."""
    if step is Step.VALIDATE and not provider(settings, "payment").creates_payment:
        return ("carrier",)
    return _ROLES_OF_STEP[step]


def _slowest(policies: dict[str, CallPolicy], settings: Settings, step: Step) -> CallPolicy:
    return max((policies[role] for role in _roles(settings, step)), key=lambda policy: policy.timeout)


@cache
def _entry_points() -> dict[str, EntryPoint]:
    built_in = {name: EntryPoint(name, value, GROUP) for name, value in _BUILT_IN.items()}
    return {point.name: point for point in entry_points(group=GROUP)} | built_in
