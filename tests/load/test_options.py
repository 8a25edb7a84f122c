"""The table of load-test options and its checks."""

import pytest

from loadtest.options import OPTIONS, OptionsRejected, RunOptions, Stage, command_line
from orchestrator.errors import UsageError
from orchestrator.security.key_hashing import Role


def options(**given: object) -> RunOptions:
    return RunOptions.parse({"run_id": "r", **given})


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30), ("30s", 30), ("5m", 300), ("1m30s", 90), ("1h", 3600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert options(duration=text).seconds == seconds


@pytest.mark.parametrize("text", ["s", "0s", "-5s", "5 s", "1s1m", "nan", "5x"])
def test_invalid_durations(text: str) -> None:
    with pytest.raises(UsageError, match=f"duration must be a duration such as 30s, .*, not {text}."):
        options(duration=text)


def test_stages() -> None:
    stages = options(stages="30s@2, 60s@10,30s@2..8").stages
    assert stages == (Stage(30, 2, 2), Stage(60, 10, 10), Stage(30, 2, 8))


@pytest.mark.parametrize("text", ["30s", "30s@", "30s@x", "30s@0", "30s@2..", "30s@1,,30s@1", "@2", "0s@2"])
def test_invalid_stages(text: str) -> None:
    with pytest.raises(UsageError, match="stages must be steps such as"):
        options(stages=text)


def test_serialization() -> None:
    plan = options(stages="3s@1..4,2s@2", chaos="1s kill api", faults="lossy", compare="x", seed="9")
    assert RunOptions.from_json(plan.to_json()) == plan


def test_the_defaults_of_the_table_are_valid_command_line_options() -> None:
    defaults = {name: option.default for name, option in OPTIONS.items()}
    assert "--slo-target=0.99" in command_line(defaults)
    plan = RunOptions.parse(defaults)
    assert (plan.faults, plan.users, plan.abort_on_breach) == (None, 1, False)


@pytest.mark.parametrize(("given", "is_set"), [(True, True), ("true", True), (False, False), ("", False)])
def test_flags_of_the_command_line_and_of_the_web_form(given: object, is_set: bool) -> None:
    assert options(exclude_rejected=given).exclude_rejected is is_set


@pytest.mark.parametrize(
    ("given", "role"),
    [({}, Role.OPERATOR), ({"faults": "none"}, Role.CHAOS), ({"chaos": "1s kill api"}, Role.CHAOS)],
)
def test_the_required_role(given: dict[str, str], role: Role) -> None:
    assert options(**given).required_role is role


def test_every_invalid_option_is_reported_by_its_name() -> None:
    with pytest.raises(OptionsRejected) as raised:
        options(rate="fast", slo_target="99", scenario="unknown")
    assert list(raised.value.problems) == ["scenario", "rate", "slo_target"]
    assert str(raised.value) == " ".join(raised.value.problems.values())


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"chaos": "90s kill api"}, "chaos"),
        ({"rate": "10000", "duration": "1h"}, "duration"),
    ],
)
def test_options_that_do_not_fit_together_are_reported_at_one_of_them(given: dict, name: str) -> None:
    with pytest.raises(OptionsRejected) as raised:
        options(**given)
    assert list(raised.value.problems) == [name]
