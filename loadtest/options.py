"""The options of a load test: one table for the command line, for Locust and for the dashboard's form.

Nothing here imports Locust, so that wrong options are rejected before the load generator is loaded.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from db.domain import ExecutionMode
from loadtest.chaos.disturbance import PlannedDisturbance, parse_chaos
from orchestrator.errors import UsageError
from orchestrator.security.key_hashing import Role

MAX_RUN_ID_LENGTH = 54
"""An order id is the run id, a dash and a number, and has at most 64 characters."""

MAX_RATE = 10_000.0
MAX_ORDERS = 5_000_000
UNCHANGED = "unchanged"
API_DEFAULT = "default"
FAULT_PROFILES = ("none", "assignment", "lossy", "slow", "outage")
USERS_PER_RATE = 10
"""Default number of users of a closed loop: enough to keep the rate when an order takes 10 s."""

EXPECT_WORKERS_SECONDS = 300
"""Default time that a master waits for its workers to connect."""

DRAIN_MARGIN_SECONDS = 5.0
"""Minimum drain time beyond the SLO limit. The limit of an order counts from its acceptance, which can be
later than its sending."""

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
    """Part of a run: `seconds` long, with a rate that changes linearly from `rate` to `end_rate` orders/s."""

    seconds: float
    rate: float
    end_rate: float

    @property
    def orders(self) -> float:
        return self.seconds * (self.rate + self.end_rate) / 2


def _between(
    low: float, high: float, *, excluding: tuple[float, ...] = (), type_: type[float] = float
) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = type_(text)
        if not low <= number <= high or number in excluding:
            raise ValueError(text)
        return number

    return parse


def _duration_seconds(text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3_600 + minutes * 60 + seconds
    if total <= 0:
        raise ValueError(text)
    return total


_rate = _between(0, MAX_RATE, excluding=(0,))


def _stages(text: str) -> tuple[Stage, ...]:
    stages = []
    for part in text.split(","):
        match = _STAGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(part)
        rate = _rate(match["rate"])
        end_rate = _rate(match["end"]) if match["end"] else rate
        stages.append(Stage(_duration_seconds(match["duration"]), rate, end_rate))
    return tuple(stages)


def _run_id(text: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{MAX_RUN_ID_LENGTH}}}", text):
        raise ValueError(text)
    return text


class OptionsRejected(UsageError):
    """Options of a load test are not valid. `problems` has one sentence for each of them, by option name."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__(" ".join(problems.values()))
        self.problems = dict(problems)


@dataclass(frozen=True)
class LoadTestOption:
    """One option. `parse` returns the value of a text; it raises ValueError for a text that is not `allowed`.

    An empty `default` means that the option is optional.
    """

    name: str
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()
    is_flag: bool = False
    is_locust_option: bool = False
    """Whether Locust itself declares the option."""

    allowed: str = ""
    parse: Callable[[str], Any] = str

    @property
    def cli_name(self) -> str:
        """The name on the command line without leading dashes: `slo-target` for `slo_target`."""
        return self.name.replace("_", "-")

    @property
    def label(self) -> str:
        """The label of a form field: `SLO target` for `slo_target`."""
        return self.name.replace("_", " ").capitalize().replace("Slo", "SLO")

    def value(self, values: Mapping[str, Any]) -> Any:
        """Return the parsed value of this option in `values`, or its default; None if there is neither.

        Raises UsageError for a text that is not allowed.
        """
        given = values.get(self.name)
        text = ("" if given is None else str(given).strip()) or self.default
        if self.is_flag:
            return text.lower() in ("true", "yes")
        if not text:
            return None
        if self.choices and text not in self.choices:
            raise UsageError(f"Unknown {self.cli_name} {text!r}. Choose one of: {', '.join(self.choices)}.")
        try:
            return self.parse(text)
        except ValueError:
            raise UsageError(f"{self.cli_name} must be {self.allowed}, not {text}.") from None


_TABLE = (
    LoadTestOption(
        "scenario", "What customers and reviewers do with the orders.", default=Scenario.MIXED.value,
        choices=tuple(Scenario), parse=Scenario,
    ),
    LoadTestOption(
        "rate", "Orders per second.", default="5", parse=_rate,
        allowed=f"a number of orders per second, more than 0 and at most {MAX_RATE:.0f}",
    ),
    LoadTestOption(
        "duration", "How long orders are sent: 30s, 5m, 1m30s.", default="60s", parse=_duration_seconds,
        allowed="a duration such as 30s, 5m or 1m30s",
    ),
    LoadTestOption(
        "stages", "Instead of rate and duration: 30s@2,60s@10 (steps) or 30s@2..10 (a ramp).", parse=_stages,
        allowed="steps such as 30s@2,60s@10 or a ramp such as 30s@2..10",
    ),
    LoadTestOption(
        "arrivals", "Open loop with constant or Poisson arrivals, or a closed loop of users.",
        default=Arrivals.CONSTANT.value, choices=tuple(Arrivals), parse=Arrivals,
    ),
    LoadTestOption(
        "users", "Number of users of a closed loop.", is_locust_option=True,
        parse=_between(1, 100_000, type_=int), allowed="a whole number between 1 and 100000",
    ),
    LoadTestOption(
        "faults", "Fault profile during the run; then the previous one is restored.",
        default=UNCHANGED, choices=(UNCHANGED, *FAULT_PROFILES),
    ),
    LoadTestOption(
        "execution", "visible: each step is an activity in Temporal's UI. default: the setting of the API.",
        default=API_DEFAULT, choices=(API_DEFAULT, *ExecutionMode),
    ),
    LoadTestOption(
        "seed", "Random seed for faults, arrivals and the actions of the scenario.", default="1",
        parse=_between(0, 2**53 - 1, type_=int), allowed=f"a whole number between 0 and {2**53 - 1}",
    ),
    LoadTestOption(
        "chaos", "Disturbances: '20s kill order-worker, 40s stop api, every 60s kill postgres'.",
    ),
    LoadTestOption(
        "run_id", "A unique name for the run; by default made from the current time.", parse=_run_id,
        allowed=f"1 to {MAX_RUN_ID_LENGTH} letters, digits, '-' or '_'",
    ),
    LoadTestOption(
        "slo_seconds", "The limit in seconds from the acceptance of an order to its outcome.", default="15",
        parse=_between(0, 3_600, excluding=(0,)),
        allowed="a number of seconds, more than 0 and at most 3600",
    ),
    LoadTestOption(
        "slo_target", "Share of orders that must be within the limit.", default="0.99",
        parse=_between(0, 1, excluding=(0, 1)), allowed="between 0 and 1 (for example 0.99)",
    ),
    LoadTestOption(
        "drain_seconds", "How long to wait for orders in flight; at least 5 s more than the limit.",
        default="30", parse=_between(0, 3_600), allowed="a number of seconds between 0 and 3600",
    ),
    LoadTestOption("compare", "Run id of an earlier run to compare with."),
    LoadTestOption(
        "abort_on_breach", "Stop sending once the SLO target can no longer be met.", is_flag=True,
    ),
    LoadTestOption(
        "exclude_rejected", "Exclude orders that the API rejects with 429; by default they count as late.",
        is_flag=True,
    ),
)  # fmt: skip

OPTIONS = {option.name: option for option in _TABLE}


_UNSUPPORTED = {
    "user_classes": "A user class as argument is not supported. Choose the scenario with --scenario.",
    "class_picker": "--class-picker is not supported. Choose the scenario in the form.",
    "config_users": "--config-users is not supported. The scenario defines the users.",
    "tags": "--tags is not supported. Choose the scenario with --scenario.",
    "exclude_tags": "--exclude-tags is not supported. Choose the scenario with --scenario.",
    "reset_stats": "--reset-stats is not supported. The statistics are part of the reports.",
    "web_login": "--web-login is not supported. The page requires an API key as soon as there is one.",
}
"""Options of Locust that conflict with the options of a run, and the error message of each."""


def require_supported(locust_options: Mapping[str, object]) -> None:
    """Raises UsageError for an option of Locust that a load test does not support."""
    for name, problem in _UNSUPPORTED.items():
        if locust_options[name]:
            raise UsageError(problem)


def command_line(values: Mapping[str, object]) -> list[str]:
    """Return the command-line arguments for values by option name; empty and false values are left out."""
    named = {name.replace("_", "-"): value for name, value in values.items() if value}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in named.items()]


@dataclass(frozen=True)
class RunOptions:
    """The checked options of one run. `stages` is never empty: a plain run has one stage.

    `faults` None leaves the active fault profile unchanged; `execution` None is the default of the API.
    `slo_target` is the share, 0 to 1, of orders that must finish within `slo_seconds` of their acceptance.
    """

    run_id: str
    scenario: Scenario
    stages: tuple[Stage, ...]
    arrivals: Arrivals = Arrivals.CONSTANT
    users: int = 1
    faults: str | None = None
    execution: str | None = None
    seed: int = 1
    chaos: tuple[PlannedDisturbance, ...] = ()
    slo_seconds: float = 15.0
    slo_target: float = 0.99
    drain_seconds: float = 30.0
    compare: str | None = None
    abort_on_breach: bool = False
    exclude_rejected: bool = False

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def drain_timeout_seconds(self) -> float:
        """How long the run waits for orders in flight after the last one was sent.

        Never shorter than the limit: the end of the drain must not decide whether an order is late.
        """
        return max(self.drain_seconds, self.slo_seconds + DRAIN_MARGIN_SECONDS)

    @property
    def required_role(self) -> Role:
        """The role that the API key of this run needs."""
        return Role.CHAOS if self.faults is not None or self.chaos else Role.OPERATOR

    @property
    def orders_at_rate(self) -> int:
        """The number of orders of all stages.

        Exact for constant arrivals, the mean for Poisson arrivals, the maximum for a closed loop.
        """
        return math.ceil(sum(stage.orders for stage in self.stages) - 1e-9)

    @property
    def rate(self) -> float:
        """The mean rate, orders per second."""
        return sum(stage.orders for stage in self.stages) / self.seconds

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"scenario": self.scenario.value, "arrivals": self.arrivals.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the options that `to_json` wrote."""
        return cls(
            **dict(data)
            | {
                "scenario": Scenario(data["scenario"]),
                "arrivals": Arrivals(data["arrivals"]),
                "stages": tuple(Stage(**stage) for stage in data["stages"]),
                "chaos": tuple(PlannedDisturbance(**each) for each in data["chaos"]),
            }
        )

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Return the options in `given`, text or numbers by option name.

        Raises OptionsRejected with all options that are not allowed.
        """
        values: dict[str, Any] = {}
        problems: dict[str, str] = {}
        for option in _TABLE:
            try:
                values[option.name] = option.value(given)
            except UsageError as error:
                problems[option.name] = str(error)
        if problems:
            raise OptionsRejected(problems)
        # Rate and duration are checked even when stages replace them.
        rate, duration = values.pop("rate"), values.pop("duration")
        load = "stages" if values["stages"] else "duration"
        stages = values["stages"] or (Stage(duration, rate, rate),)
        peak = max(max(stage.rate, stage.end_rate) for stage in stages)
        users = values["users"] or max(1, math.ceil(peak * USERS_PER_RATE))
        values |= {
            "run_id": values["run_id"] or new_run_id(),
            "stages": stages,
            "users": users if values["arrivals"] is Arrivals.CLOSED else 1,
            "faults": None if values["faults"] == UNCHANGED else values["faults"],
            "execution": None if values["execution"] == API_DEFAULT else values["execution"],
        }
        try:
            values["chaos"] = parse_chaos(values["chaos"] or "", sum(stage.seconds for stage in stages))
        except UsageError as error:
            raise OptionsRejected({"chaos": str(error)}) from None
        options = cls(**values)
        orders = options.orders_at_rate
        if orders > MAX_ORDERS:
            raise OptionsRejected(
                {load: f"A run has at most {MAX_ORDERS} orders; this one would have {orders}."}
            )
        return options


def new_run_id() -> str:
    return f"run-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"[:-3]
