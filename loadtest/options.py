"""What a run is asked to do, and every sentence that refuses a wrong request.

Nothing here imports Locust, so that a command can be refused before the generator is loaded.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self, TypeVar

from loadtest.chaos.disturbance import Disturbance, parse_chaos
from orchestrator.errors import UsageError

MAX_RUN_ID_LENGTH = 54
"""Order ids are the run id, a dash and a number, and have at most 64 characters."""

MAX_RATE = 10_000.0
MAX_ORDERS = 5_000_000
UNCHANGED = "unchanged"
FAULT_PROFILES = ("none", "assignment", "lossy", "slow", "outage")
USERS_PER_RATE = 10
"""Closed loops need users: by default as many as keep the rate up when an order takes 10 s."""

EXPECT_WORKERS_SECONDS = 300
"""How long a master waits for its workers to connect, unless it is told otherwise."""

DRAIN_MARGIN_SECONDS = 5.0
"""How much longer than the limit a drain takes at least: the last order may be accepted some time after it
was sent, and only then does its time begin."""

Choice = TypeVar("Choice", bound=StrEnum)

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
_STAGE = re.compile(r"(?P<duration>[^@]+)@(?P<rate>\d*\.?\d+)(?:\.\.(?P<end>\d*\.?\d+))?")


class Scenario(StrEnum):
    MIXED = "mixed"
    START_ONLY = "start-only"
    CANCEL_STORM = "cancel-storm"
    ADDRESS_CHURN = "address-churn"
    REVIEW_DESK = "review-desk"
    RESUBMIT = "resubmit"


class Arrivals(StrEnum):
    CONSTANT = "constant"
    POISSON = "poisson"
    CLOSED = "closed"


@dataclass(frozen=True)
class Stage:
    """A part of the run: `seconds` long, from `rate` to `end_rate` orders a second, evenly."""

    seconds: float
    rate: float
    end_rate: float

    @property
    def orders(self) -> float:
        return self.seconds * (self.rate + self.end_rate) / 2


@dataclass(frozen=True)
class RunOptions:
    """One run, complete and checked. `stages` is never empty; a plain run has one.

    `faults` None leaves the profile in force as it is. `slo_target` is the share, 0 to 1, of orders that
    must finish within `slo_seconds` of their acceptance.
    """

    run_id: str
    scenario: Scenario
    stages: tuple[Stage, ...]
    arrivals: Arrivals = Arrivals.CONSTANT
    users: int = 1
    faults: str | None = None
    seed: int = 1
    chaos: tuple[Disturbance, ...] = ()
    slo_seconds: float = 15.0
    slo_target: float = 0.99
    drain_seconds: float = 30.0
    compare: str | None = None
    stop_when_hopeless: bool = False
    """Whether the run ends once so many orders are late that the target cannot be met any more."""

    shed_ok: bool = False
    """Whether orders that the API turns away (429) are counted apart; otherwise they count as late."""

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def time_budget_seconds(self) -> float:
        """How long orders in flight are waited for after the last one was sent: never so short that the
        drain's end decides about an order instead of its limit."""
        return max(self.drain_seconds, self.slo_seconds + DRAIN_MARGIN_SECONDS)

    @property
    def orders_at_rate(self) -> int:
        """How many orders the rate makes of the time: a constant open loop offers exactly as many, a Poisson
        one about, a closed one at most."""
        return math.ceil(sum(stage.orders for stage in self.stages) - 1e-9)

    @property
    def rate(self) -> float:
        """The mean rate, orders a second."""
        return sum(stage.orders for stage in self.stages) / self.seconds

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"scenario": self.scenario.value, "arrivals": self.arrivals.value}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote."""
        return cls(
            **dict(told)
            | {
                "scenario": Scenario(told["scenario"]),
                "arrivals": Arrivals(told["arrivals"]),
                "stages": tuple(Stage(**stage) for stage in told["stages"]),
                "chaos": tuple(Disturbance(**each) for each in told["chaos"]),
            }
        )

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Reads options as a command line or a form gives them, as text or numbers; empty means default.

        Raises UsageError with one sentence for the first one that cannot be meant.
        """
        stages = _stages(given)
        arrivals = _one_of(given, "arrivals", Arrivals, Arrivals.CONSTANT)
        options = cls(
            run_id=_run_id(given),
            scenario=_one_of(given, "scenario", Scenario, Scenario.MIXED),
            stages=stages,
            arrivals=arrivals,
            users=_users(given, arrivals, stages),
            faults=_faults(given),
            seed=int(_number(given, "seed", 1, least=0, most=2**53 - 1, whole=True)),
            chaos=parse_chaos(_text(given, "chaos"), sum(stage.seconds for stage in stages)),
            slo_seconds=_number(given, "slo_seconds", 15.0, more_than=0, most=3_600),
            slo_target=_number(given, "slo_target", 0.99, more_than=0, less_than=1),
            drain_seconds=_number(given, "drain_seconds", 30.0, least=0, most=3_600),
            compare=_text(given, "compare") or None,
            stop_when_hopeless=_text(given, "stop_when_hopeless") == "yes",
            shed_ok=_text(given, "shed_ok") == "yes",
        )
        if options.orders_at_rate > MAX_ORDERS:
            raise UsageError(
                f"a run has at most {MAX_ORDERS} orders, this one would have {options.orders_at_rate}"
            )
        if options.orders_at_rate < 1:
            raise UsageError("the run is too short for a single order at this rate")
        return options


def parse_duration(text: str, name: str = "duration") -> float:
    """Seconds of `90`, `90s`, `1m30s`, `2h`. Raises UsageError for anything else, and for zero."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not text.strip():
        raise UsageError(f"{name}: {text!r} is not a duration like 30s, 5m or 1m30s")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3_600 + minutes * 60 + seconds
    if total <= 0:
        raise UsageError(f"{name} must be more than zero")
    return total


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Reads `30s@2,60s@10` (steps) and `30s@2..10` (a ramp). Raises UsageError when it cannot."""
    stages = []
    for part in text.split(","):
        match = _STAGE.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"stages: {part.strip()!r} is not like 30s@2 or 30s@2..10")
        seconds = parse_duration(match["duration"], "stages")
        rate = _rate(match["rate"], "stages")
        stages.append(Stage(seconds, rate, _rate(match["end"], "stages") if match["end"] else rate))
    return tuple(stages)


def new_run_id() -> str:
    return f"run-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"[:-3]


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    return "" if value is None else str(value).strip()


def _stages(given: Mapping[str, Any]) -> tuple[Stage, ...]:
    # Also checked when stages replace it: a wrong rate is never meant.
    rate = _rate(_text(given, "rate") or "5", "rate")
    if _text(given, "stages"):
        return parse_stages(_text(given, "stages"))
    return (Stage(parse_duration(_text(given, "duration") or "60s"), rate, rate),)


def _rate(text: str, name: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        raise UsageError(f"{name}: {text!r} is not a number of orders a second") from None
    if not 0 < rate <= MAX_RATE:
        raise UsageError(f"{name} must be more than 0 and at most {MAX_RATE:.0f} orders a second, not {text}")
    return rate


def _run_id(given: Mapping[str, Any]) -> str:
    run_id = _text(given, "run_id") or new_run_id()
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{MAX_RUN_ID_LENGTH}}}", run_id):
        raise UsageError(f"run-id must be 1 to {MAX_RUN_ID_LENGTH} letters, digits, '-' or '_'")
    return run_id


def _one_of(given: Mapping[str, Any], name: str, kind: type[Choice], default: Choice) -> Choice:
    text = _text(given, name) or default.value
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"there is no {name} {text!r}; there are: {', '.join(kind)}") from None


def _faults(given: Mapping[str, Any]) -> str | None:
    profile = _text(given, "faults") or UNCHANGED
    if profile == UNCHANGED:
        return None
    if profile not in FAULT_PROFILES:
        raise UsageError(f"there is no fault profile {profile!r}; there are: {', '.join(FAULT_PROFILES)}")
    return profile


def _users(given: Mapping[str, Any], arrivals: Arrivals, stages: tuple[Stage, ...]) -> int:
    if arrivals is not Arrivals.CLOSED:
        return 1
    enough = max(1, math.ceil(max(max(stage.rate, stage.end_rate) for stage in stages) * USERS_PER_RATE))
    return int(_number(given, "users", enough, least=1, most=100_000, whole=True))


def _number(
    given: Mapping[str, Any],
    name: str,
    default: float,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    more_than: float = -math.inf,
    less_than: float = math.inf,
    whole: bool = False,
) -> float:
    text = _text(given, name)
    if not text:
        return default
    shown = name.replace("_", "-")
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{shown}: {text!r} is not a number") from None
    if not (least <= value <= most and more_than < value < less_than) or (whole and value != int(value)):
        raise UsageError(f"{shown}: {text} is out of range")
    return value
