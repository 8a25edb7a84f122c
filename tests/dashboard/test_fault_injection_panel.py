"""The fault injection panel: roles, confirmation, custom rates, and the process that makes a disturbance."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import psutil
import pytest

from dashboard.data import disturbances, local_stack
from dashboard.data.order_api import OrderApi
from dashboard.sections import fault_injection, running_load_tests
from dashboard.view_models.component_health import LocalProcess
from dashboard.view_models.fault_rates import OTHER_STEPS, rates_error, rates_of, rates_table, rates_text
from db import runs
from loadtest.chaos import single_disturbance
from orchestrator.embedded.component import RunningProcess
from orchestrator.embedded.process_table import is_paused
from orchestrator.errors import NotAllowed, StackError
from orchestrator.gateways.fault_injection import PROFILES
from orchestrator.security.key_hashing import Role
from orchestrator.settings import Settings
from tests.dashboard.conftest import Pages, plain, texts
from tests.dashboard.keyed_api import keyed_api
from tests.dashboard.test_roles import sign_in

WORKER = LocalProcess("order-worker-1", "running", datetime.now(UTC), 0)


def click(test, label: str):
    next(button for button in test.button if plain(button.label) == label).click()
    return test.run()


def labels(test) -> set[str]:
    return {button.label for button in test.button}


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch):
    """A local stack with one worker, and a user with the role `chaos`. Returns the disturbances made."""
    made: list[tuple] = []
    monkeypatch.setattr(local_stack, "processes", stack_of(WORKER))
    monkeypatch.setattr(local_stack, "serves_the_api", lambda: True)
    monkeypatch.setattr(running_load_tests, "require_role", lambda _role: None)
    monkeypatch.setattr(running_load_tests, "processes", lambda: SimpleNamespace(running=lambda: ["run-1"]))
    monkeypatch.setattr(disturbances, "disturb", lambda _settings, *args, **more: made.append((*args, more)))
    return made


def stack_of(*processes: LocalProcess):
    def read() -> list[LocalProcess]:
        return list(processes)

    read.clear = lambda: None
    return read


def test_a_profile_is_applied_after_a_confirmation(page: Pages, seeded_url, monkeypatch):
    applied = []
    monkeypatch.setattr(OrderApi, "set_faults", lambda _api, *given: applied.append(given))
    test = page.run("overview", seeded_url)
    test.selectbox(key="fault-profile").set_value("assignment")
    click(test, "Apply fault profile")
    assert "All other steps: error 33 %, hang 34 %." in plain(texts(test))
    assert applied == []
    click(test, "Apply")
    assert not test.exception
    assert applied == [("assignment", 1, None)]
    assert [message.value for message in test.success] == ["Applied fault profile assignment (seed 1)."]


def test_custom_rates_are_applied(page: Pages, seeded_url, monkeypatch):
    applied = []
    monkeypatch.setattr(OrderApi, "set_faults", lambda _api, *given: applied.append(given))
    test = page.run("overview", seeded_url)
    test.selectbox(key="fault-profile").set_value("custom").run()
    click(test, "Apply fault profile")
    click(test, "Apply")
    assert not test.exception
    ((profile, _, rates),) = applied
    assert (profile, rates["steps"]) == ("custom", {})
    assert rates["default"] == vars(PROFILES["assignment"])


def test_rates_come_from_the_filled_cells():
    table = rates_table()
    table.loc[OTHER_STEPS, :] = [0.1, 0, 0, 100, 0, 0]
    table.loc["charge", ["decline", "hang"]] = [0.2, 0.1]
    rates = rates_of(table)
    assert rates["default"]["error"] == 0.1
    assert rates["steps"] == {"charge": {"hang": 0.1, "decline": 0.2}}
    assert rates_error(rates) is None
    assert rates_text(rates) == "All other steps: error 10 %. Charge: hang 10 %, decline 20 %."


def test_rates_above_one_are_not_applied(page: Pages, seeded_url, monkeypatch):
    table = rates_table()
    table.loc["charge", ["error", "hang"]] = [0.6, 0.6]
    monkeypatch.setattr(fault_injection, "rates_table", lambda: table)
    test = page.run("overview", seeded_url)
    test.selectbox(key="fault-profile").set_value("custom").run()
    assert "The rates of one step add up to more than 1" in plain("\n".join(e.value for e in test.error))
    (button,) = (each for each in test.button if each.label == "Apply fault profile")
    assert button.disabled


@pytest.mark.parametrize(
    ("verb", "label", "seconds"), [("kill", "Kill", 15), ("pause", "Pause", 20), ("resume", "Resume", 15)]
)
def test_a_component_is_disturbed_after_a_confirmation(page: Pages, seeded_url, local, verb, label, seconds):
    test = page.run("overview", seeded_url)
    test.number_input(key="pause-seconds").set_value(seconds)
    click(test, label)
    assert local == []
    if verb == "pause":
        assert "resumes automatically after 20 s" in texts(test)
    click(test, f"{label} order-worker-1")
    assert not test.exception
    assert local == [(verb, "order-worker-1", {"pause_seconds": seconds, "run_id": "run-1"})]
    (message,) = (plain(each.value) for each in test.success)
    assert (
        message
        == {
            "kill": "Killed order-worker-1.",
            "pause": "Paused order-worker-1 for 20 s.",
            "resume": "Resumed order-worker-1.",
        }[verb]
    )


def test_the_role_is_checked_when_the_disturbance_is_made(page: Pages, seeded_url, local, monkeypatch):
    def refuse(role: Role) -> None:
        raise NotAllowed(f"this requires a key of role {role.word}")

    monkeypatch.setattr(running_load_tests, "require_role", refuse)
    test = page.run("overview", seeded_url)
    click(test, "Kill")
    click(test, "Kill order-worker-1")
    assert local == []
    assert [plain(error.value) for error in test.error] == ["This requires a key of role chaos."]


@pytest.mark.parametrize(("role", "is_offered"), [(Role.OPERATOR, False), (Role.CHAOS, True)])
def test_the_controls_need_the_role_chaos(page: Pages, seeded_url, local, monkeypatch, role, is_offered):
    with keyed_api(int(os.environ["PORT_BASE"])):
        sign_in(monkeypatch, role)
        test = page.run("overview", seeded_url)
        page.reset()
    assert not test.exception
    assert ({"Apply fault profile", "Kill", "Pause", "Resume"} <= labels(test)) is is_offered
    assert ("Fault injection requires a key of role chaos." in texts(test)) is not is_offered


@pytest.mark.parametrize("name", ["overview", "stage"])
@pytest.mark.usefixtures("local")
def test_real_gateways_have_no_controls(page: Pages, seeded_url, name):
    with keyed_api(int(os.environ["PORT_BASE"]), keyless_role=Role.VIEWER) as api:
        api.faults_unavailable = (
            "Faults can only be injected into simulated gateways, and PAYMENT_GATEWAY is x."
        )
        test = page.run(name, seeded_url)
        page.reset()
    assert [plain(each.value) for each in test.info] == [api.faults_unavailable]
    assert not [
        each.label for each in test.button if each.label.startswith(("Apply", "Kill", "Pause", "Faults"))
    ]


def test_without_a_local_stack_only_profiles_are_offered(page: Pages, seeded_url):
    test = page.run("overview", seeded_url)
    assert "Only a dashboard on the machine of the stack" in texts(test)
    assert labels(test) & {"Apply fault profile", "Kill"} == {"Apply fault profile"}


def test_the_stack_of_another_api_cannot_be_disturbed(page: Pages, seeded_url, local, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("ORDERS_HOME", str(Settings.load().home))
    other = Settings.load().model_copy(update={"port_base": 1})
    monkeypatch.setattr(local_stack, "processes", stack_of(WORKER))
    monkeypatch.setattr(local_stack.Stack, "running_settings", lambda _stack: other)
    test = page.run("overview", seeded_url)
    assert "Only a dashboard on the machine of the stack" in texts(test)


class OneProcess:
    """A stack whose only component is a real process."""

    def __init__(self, pid: int, settings: Settings) -> None:
        self.pid = pid
        self.settings = settings
        self.signals: list[str] = []

    def running_settings(self) -> Settings:
        return self.settings

    def processes(self) -> list[RunningProcess]:
        return [RunningProcess("api", self.pid, "RUNNING", datetime.now(UTC))]

    def kill(self, name: str, number: signal.Signals) -> int:
        if name != "api":
            raise StackError(f"Unknown component {name!r}.")
        self.signals.append(number.name)
        os.kill(self.pid, number)
        return self.pid


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """A stack with one component, and the recorded disturbances in `recorded`."""
    with subprocess.Popen(["sleep", "120"]) as process:
        stack = OneProcess(process.pid, Settings(orders_home=tmp_path))
        stack.recorded = []
        monkeypatch.setattr(single_disturbance, "Stack", lambda _settings: stack)
        monkeypatch.setattr(
            runs,
            "record_disturbance",
            lambda _url, **given: stack.recorded.append(
                (given["action"], given["component"], given["run_id"])
            ),
        )
        yield stack
        process.kill()


def test_a_paused_component_resumes_automatically(stack, capfd):
    single_disturbance.main(["pause", "api", "--pause-seconds=0.6", "--run-id=r"])
    assert stack.signals == ["SIGSTOP", "SIGCONT"]
    assert stack.recorded == [("pause", "api", "r"), ("resume", "api", "r")]
    assert not is_paused(stack.pid)
    assert capfd.readouterr().out == "null\n"


def test_a_component_that_was_resumed_is_not_resumed_again(stack):
    resume = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, psutil, signal, sys, time\n"
            "pid = int(sys.argv[1])\n"
            "while psutil.Process(pid).status() != psutil.STATUS_STOPPED: time.sleep(0.02)\n"
            "os.kill(pid, signal.SIGCONT)",
            str(stack.pid),
        ]
    )
    single_disturbance.main(["pause", "api", "--pause-seconds=30"])
    assert resume.wait(10) == 0
    assert stack.signals == ["SIGSTOP"]
    assert stack.recorded == [("pause", "api", None)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume", "api"], "api is not paused."),
        (["kill", "other"], "Unknown component 'other'."),
    ],
)
def test_a_disturbance_that_is_not_possible_is_not_recorded(stack, capfd, arguments, message):
    single_disturbance.main(arguments)
    assert json.loads(capfd.readouterr().out) == message
    assert (stack.signals, stack.recorded) == ([], [])


def test_a_paused_component_is_not_paused_again(stack, capfd):
    os.kill(stack.pid, signal.SIGSTOP)
    wait_until_paused(stack.pid)
    single_disturbance.main(["pause", "api"])
    assert json.loads(capfd.readouterr().out) == "api is already paused."


def test_real_gateways_are_not_disturbed(stack, capfd):
    stack.settings = stack.settings.model_copy(update={"carrier_gateway": "http"})
    single_disturbance.main(["kill", "api"])
    assert "CARRIER_GATEWAY is http" in json.loads(capfd.readouterr().out)
    assert stack.signals == []


def test_the_answer_of_the_helper_process_reaches_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("ORDERS_HOME", str(tmp_path))
    with pytest.raises(StackError, match="The stack is not running"):
        disturbances.disturb(Settings(orders_home=tmp_path), "kill", "api")


def wait_until_paused(pid: int) -> None:
    until = time.monotonic() + 10
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < until
        time.sleep(0.02)
