"""Events beside a run, and the exit code that the run must have with each of them.

Lost workers, an outage of PostgreSQL and a verdict that is stored late: test_exit_codes.py and test_run.py.
A real API and a real PostgreSQL that restart: test_real_run.py.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from subprocess import Popen

import pytest

from dashboard.data.load_test_processes import LoadTestProcesses
from orchestrator.errors import OrderSystemError
from orchestrator.settings import Settings
from tests.load.fake_api import Behaviour
from tests.load.harness import (
    RUN_ID,
    FakeApiProcess,
    Finished,
    LoadTest,
    end,
    fake_api,
    interrupt,
    unwrapped,
    wait_for,
    wait_for_line,
)

QUICK = ("--scenario=start-only", "--rate=20", "--duration=2s", "--slo-target=0.5")
"""A busy machine delays some orders, which must not change the result."""

LONG = ("--scenario=start-only", "--rate=20", "--duration=60s", "--slo-target=0.5", "--faults=assignment")
STOPPED_SECONDS = 30.0
"""A run that ends on its own would take twice as long."""


@dataclass(frozen=True)
class Running:
    """A long run that has sent 60 orders, and what it runs against."""

    load_test: LoadTest
    api: FakeApiProcess
    process: Popen[str]

    def second(self, *options: str, run_id: str = "second") -> Finished:
        return self.load_test.run(self.api, *QUICK, *options, run_id=run_id)

    def behave(self, **changes: object) -> None:
        self.api.put("behaviour", vars(Behaviour(completion_ms=100)) | changes)

    def orders(self) -> int:
        return len(self.api.truth()["orders"])


@contextmanager
def running(load_test: LoadTest, completion_ms: float = 100, mode: str = "local") -> Iterator[Running]:
    with (
        fake_api(Behaviour(completion_ms=completion_ms)) as api,
        load_test.started(api, *LONG, mode=mode) as process,
    ):
        wait_for(lambda: len(api.truth()["orders"]) >= 60)
        yield Running(load_test, api, process)


def fault_profiles(api: FakeApiProcess) -> list[str]:
    return [change["profile"] for change in api.truth()["faults"]]


def start_with_the_same_id(run: Running) -> None:
    assert run.second(run_id=RUN_ID).code == 2


def start_another_run(run: Running) -> None:
    assert run.second().code == 0


def start_another_run_with_faults(run: Running) -> None:
    assert run.second("--faults=slow").code == 2


def occupy_audits(run: Running) -> None:
    run.behave(busy_audits=4)


def restart_api(run: Running) -> None:
    run.behave(is_unavailable=True)
    requests = run.api.truth()["requests"]
    # Ten retried starts a second.
    wait_for(lambda: run.api.truth()["requests"] > requests + 20)
    run.behave()
    orders = run.orders()
    wait_for(lambda: run.orders() > orders)


def restart_database(run: Running) -> None:
    run.behave(database_unavailable=True)
    probes = run.api.truth()["operations"]["health"]
    wait_for(lambda: run.api.truth()["operations"]["health"] > probes)
    run.behave()
    orders = run.orders()
    wait_for(lambda: run.orders() > orders)


def close_the_output(run: Running) -> None:
    assert run.process.stdout is not None
    run.process.stdout.close()
    # Progress is printed every 5 s, which fails now.
    sent = run.orders()
    wait_for(lambda: run.orders() > sent + 5 * 20)


def stop_twice_in_the_dashboard(run: Running) -> None:
    processes = LoadTestProcesses(Settings(orders_home=run.load_test.home))
    processes.stop(RUN_ID)
    with suppress(OrderSystemError):
        processes.stop(RUN_ID)


EVENTS: dict[str, Callable[[Running], object]] = {
    "SIGINT": lambda run: run.process.send_signal(signal.SIGINT),
    "SIGTERM": lambda run: run.process.send_signal(signal.SIGTERM),
    "SIGTERM twice": lambda run: [run.process.send_signal(signal.SIGTERM) for _ in range(2)],
    "SIGTERM and SIGINT": lambda run: [
        run.process.send_signal(each) for each in (signal.SIGTERM, signal.SIGINT)
    ],
    "a closed terminal": lambda run: run.process.send_signal(signal.SIGHUP),
    "two stops in the dashboard": stop_twice_in_the_dashboard,
    "a closed output": close_the_output,
    "a second start with the same id": start_with_the_same_id,
    "another run": start_another_run,
    "another run with faults": start_another_run_with_faults,
    "audits by others": occupy_audits,
    "a restarted API": restart_api,
    "a restarted database": restart_database,
}


@pytest.mark.parametrize("name", EVENTS)
def test_a_run_passes_in_spite_of(load_test: LoadTest, name: str) -> None:
    with running(load_test) as run:
        EVENTS[name](run)
        if not name.startswith(("SIG", "a closed terminal", "two stops")):
            interrupt(run.process)
        if run.process.stdout is not None and run.process.stdout.closed:
            run.process.wait(STOPPED_SECONDS)
        found = load_test.finished(run.process, timeout=STOPPED_SECONDS)
        orders, profiles = run.orders(), fault_profiles(run.api)

    assert found.code == 0, found.output
    assert "Traceback" not in found.output
    assert profiles == ["assignment", "none"], "set once and restored"
    others = 40 if name == "another run" else 0
    assert found.run["offered"] == orders - others
    assert found.run["unaccounted"] == 0
    stored = load_test.stored()
    assert stored is not None
    assert stored.verdict is not None
    assert stored.verdict["exit_code"] == 0


@pytest.mark.parametrize("mode", ["local", "processes"])
def test_a_second_interrupt_restores_the_faults_first(load_test: LoadTest, mode: str) -> None:
    with running(load_test, completion_ms=10_000, mode=mode) as run:
        interrupt(run.process)
        # The line comes before the wait for the orders in flight.
        wait_for_line(run.process, containing="Stopping:")
        for _ in range(3):
            interrupt(run.process)
        found = load_test.finished(run.process, timeout=STOPPED_SECONDS)
        profiles = fault_profiles(run.api)

    assert found.code == 1, found.output
    assert profiles == ["assignment", "none"]
    assert "Interrupted again: the run has no verdict." in unwrapped(found.output)
    assert "Traceback" not in found.output
    assert found.report == {}


def test_reports_of_an_earlier_run_are_kept(load_test: LoadTest) -> None:
    old = load_test.home / "reports" / RUN_ID / "verdict.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"exit_code": 0}')
    with fake_api() as api:
        found = load_test.run(api, *QUICK)
        assert api.truth()["orders"] == {}

    assert found.code == 2
    assert found.output == f"Run id {RUN_ID} was used before; choose another.\n"
    assert old.read_text() == '{"exit_code": 0}'


def test_a_second_master_on_the_same_port_is_refused(load_test: LoadTest) -> None:
    port = f"--master-port={load_test.port_base + 9}"
    with fake_api(Behaviour(completion_ms=100)) as api:
        first = load_test.start("run", *QUICK, "--master", port, f"--host={api.url}", f"--run-id={RUN_ID}")
        worker = load_test.start("run", "--worker", port, f"--host={api.url}")
        try:
            wait_for(lambda: api.truth()["orders"])
            second = load_test.run(api, *QUICK, "--master", port, run_id="second")
            found = load_test.finished(first)
        finally:
            end(first)
            end(worker)

    assert second.code == 2
    assert second.output.startswith("The master cannot listen on 127.0.0.1:")
    assert found.code == 0, found.output


def test_a_worker_that_fails_when_it_begins_ends_the_run(load_test: LoadTest) -> None:
    port = f"--master-port={load_test.port_base + 9}"
    with fake_api(Behaviour(completion_ms=100)) as api:
        worker = load_test.start("run", "--worker", port, "--host=ftp://127.0.0.1")
        try:
            found = load_test.run(api, *LONG, "--master", port)
            profiles = fault_profiles(api)
        finally:
            end(worker)

    assert found.code == 6, found.output
    (failure,) = (problem for problem in found.run["problems"] if "failed" in problem)
    assert failure.startswith("a generator process failed: UsageError: ftp://127.0.0.1 is not the")
    assert found.run["lost_workers"] == 1
    assert profiles == ["assignment", "none"]


def test_a_stop_between_two_orders_ends_the_run_at_once(load_test: LoadTest) -> None:
    options = ("--scenario=start-only", "--rate=0.01", "--duration=300s", "--slo-target=0.01")
    with (
        fake_api(Behaviour(completion_ms=100)) as api,
        load_test.started(api, *options, mode="processes") as process,
    ):
        wait_for(lambda: any(order["outcome"] for order in api.truth()["orders"].values()))
        interrupt(process)
        found = load_test.finished(process, timeout=STOPPED_SECONDS)

    assert found.code == 0, found.output
    assert found.run["problems"] == []
    assert found.run["offered"] == 1


@pytest.mark.parametrize("ids", [(RUN_ID, RUN_ID), (RUN_ID, "second")])
def test_of_two_runs_that_set_faults_at_once_one_is_refused(
    load_test: LoadTest, ids: tuple[str, str]
) -> None:
    # The checks of both pass before either has set its faults.
    with fake_api(Behaviour(completion_ms=100, faults_delay_seconds=1.0)) as api:
        options = (*QUICK, "--faults=assignment", f"--host={api.url}")
        processes = [load_test.start("run", *options, f"--run-id={run_id}") for run_id in ids]
        try:
            found = [
                load_test.finished(process, run_id) for process, run_id in zip(processes, ids, strict=True)
            ]
        finally:
            for process in processes:
                end(process)
        profiles = fault_profiles(api)

    assert sorted(each.code for each in found) == [0, 2], [each.output for each in found]
    assert profiles == ["assignment", "none"], "of the first run alone"
