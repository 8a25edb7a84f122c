"""The embedded stack with real processes: start, stop, crashes."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from orchestrator.embedded import Stack, temporal
from orchestrator.embedded.layout import PROJECT_ROOT, Layout, stack_environment
from orchestrator.errors import StackError
from orchestrator.settings import STACK_MARKER
from tests.command_line import Command, commands_for
from tests.live import eventually
from tests.stacks import (
    FOREIGN_VARIABLES,
    killed_at_the_end,
    processes_in,
    refusal,
    stack_settings,
    temporary_home,
    without_clients,
)

# Twice the default: on a busy machine a start takes a minute.
pytestmark = [pytest.mark.stack, pytest.mark.timeout(360)]

NAMES = ["postgres", "temporal", "order-worker-1", "shipping-worker-1", "api"]
CLIENTS = ["dashboard", "locust"]
SECONDS = 120.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Stack]:
    """One stack for all tests. Tests that need it up use `stack`."""
    with temporary_home("orders-stack-") as home:
        yield without_clients(stack_settings(home))


@pytest.fixture
def stack(shared: Stack) -> Stack:
    shared.up(bound=True)
    return shared


@pytest.fixture
def command(shared: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands_for(shared.settings, monkeypatch, capsys)


def pids(stack: Stack) -> dict[str, int | None]:
    return {component.name: component.pid for component in stack.components()}


def execute(stack: Stack, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(stack.settings.order_database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_every_component_is_healthy_and_a_process_of_its_own(stack: Stack) -> None:
    components = stack.components()
    assert [component.name for component in components] == NAMES
    assert all(component.healthy for component in components)
    assert len({component.pid for component in components}) == len(NAMES)


def test_a_second_up_changes_nothing(stack: Stack, command: Command) -> None:
    before = pids(stack)
    assert stack.up() is False
    result = command("up")
    assert result.exit_code == 0
    assert "already up" in result.out
    assert stack.settings.api_url in result.out
    assert pids(stack) == before


def test_ps_prints_every_component_as_json(stack: Stack, command: Command) -> None:
    result = command("ps", "--json")
    assert result.exit_code == 0
    components = json.loads(result.out)["components"]
    assert [component["name"] for component in components] == NAMES
    by_name = {component["name"]: component for component in components}
    assert by_name["api"]["port"] == stack.settings.port("api")
    assert by_name["temporal"]["port"] == stack.settings.port("temporal")
    assert Path(by_name["postgres"]["socket"]).is_socket()
    assert by_name["order-worker-1"].keys() == {"name", "pid", "port", "healthy", "restarts"}
    assert all(component["healthy"] for component in components)


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_component_restarts(stack: Stack, command: Command, name: str) -> None:
    before = {component.name: component for component in stack.components()}
    assert command("kill", name).exit_code == 0
    stack.wait_until_healthy()
    after = {component.name: component for component in stack.components()}
    assert after[name].pid != before[name].pid
    assert after[name].restarts == before[name].restarts + 1
    with psycopg.connect(stack.settings.order_database_url) as connection:
        recorded = connection.execute(
            "select at from disturbances where component = %s and action = 'kill'", [name]
        )
        assert recorded.rowcount == 1
    others = [other for other in NAMES if other != name]
    assert {other: after[other].pid for other in others} == {other: before[other].pid for other in others}


def test_kill_rejects_unknown_names(stack: Stack, command: Command) -> None:
    result = command("kill", "unknown")
    assert result.exit_code == 2
    assert all(name in result.err for name in NAMES)
    assert command("kill", "api", "--signal", "NONSENSE").exit_code == 2


def test_a_worker_can_be_paused_and_resumed(stack: Stack, command: Command) -> None:
    pid = pids(stack)["order-worker-1"]
    assert pid is not None
    assert command("kill", "order-worker-1", "--signal", "stop").exit_code == 0
    eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    assert command("kill", "order-worker-1", "--signal", "SIGCONT").exit_code == 0
    eventually(lambda: psutil.Process(pid).status() != psutil.STATUS_STOPPED)
    assert pids(stack)["order-worker-1"] == pid


def test_a_stopped_component_stays_stopped_until_start(stack: Stack) -> None:
    stack.stop("shipping-worker-1")
    stopped = {component.name: component for component in stack.components()}["shipping-worker-1"]
    assert stopped.pid is None
    assert not stopped.healthy
    with pytest.raises(StackError, match="is not running"):
        stack.kill("shipping-worker-1")
    stack.start("shipping-worker-1")
    stack.restart("shipping-worker-1")
    assert all(component.healthy for component in stack.components())


def test_earlier_restarts_do_not_prevent_a_start(stack: Stack) -> None:
    stack.stop("api")
    starts = Layout(stack.settings).starts("api")
    with starts.open("a") as file:
        file.write(f"{os.getpid()} {time.time()}\n" * 10)
    stack.start("api")
    assert next(component for component in stack.components() if component.name == "api").restarts > 10


def test_the_database_is_migrated_and_durable(stack: Stack) -> None:
    assert execute(stack, "select count(*) from orders") == [(0,)]
    assert execute(stack, "select current_setting('fsync'), current_setting('synchronous_commit')") == [
        ("on", "on")
    ]


def test_temporal_keeps_the_used_indexes_only(stack: Stack) -> None:
    with closing(sqlite3.connect(Layout(stack.settings).temporal_data / "temporal.db")) as database:
        rows = database.execute(
            "select name from sqlite_master where type = 'index' and sql is not null"
            " and tbl_name = 'executions_visibility'"
        ).fetchall()
    names = {name for (name,) in rows}
    assert names > temporal._USED_INDEXES
    # Of the search attribute OrderRunId, for which the server selects a column at random.
    (other,) = names - temporal._USED_INDEXES
    assert other.startswith("by_keyword_")


def test_every_port_is_on_the_loopback_address(stack: Stack) -> None:
    listening = [
        connection.laddr.ip
        for pid in pids(stack).values()
        for connection in psutil.Process(pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_down_ends_every_process_and_keeps_the_data(stack: Stack, command: Command) -> None:
    execute(stack, "create table kept as select 42 as answer")
    result = command("down")
    assert result.exit_code == 0
    assert processes_in(stack.settings.home) == []
    assert not stack.is_up()

    assert "No stack was running" in command("down").out
    assert command("down").exit_code == 0
    result = command("ps", "--json")
    assert result.exit_code == 2
    assert json.loads(result.out) == {"components": []}

    assert stack.up(bound=True) is True
    assert execute(stack, "select answer from kept") == [(42,)]
    execute(stack, "drop table kept")


def test_a_killed_supervisor_leaves_no_process_and_up_starts_again(stack: Stack) -> None:
    layout = Layout(stack.settings)
    os.kill(stack.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: processes_in(stack.settings.home) == [])
    assert layout.supervisor_socket.exists()
    # In a container, process ids are reused soon: the file names a running process.
    (layout.postgres_data / "postmaster.pid").write_text(f"{os.getpid()}\n{layout.postgres_data}\n")
    # Components outlive their supervisor on systems without parent-death signals.
    with _process_of(stack.settings.home) as ours, _process_of(Path("/another/home")) as another:
        assert stack.up(bound=True) is True
        assert ours.wait(1) != 0
        assert another.poll() is None
    assert all(component.healthy for component in stack.components())


def test_external_servers_are_used_and_not_started(stack: Stack, tmp_path: Path) -> None:
    execute(stack, "create database external")
    settings = stack_settings(tmp_path).model_copy(
        update={
            "database_url": stack.settings.order_database_url.replace("/orders?", "/external?"),
            "temporal_address": stack.settings.temporal_target,
            "order_task_queue": "other-order-tq",
            "shipping_task_queue": "other-shipping-tq",
        }
    )
    other = without_clients(settings)
    try:
        other.up(bound=True)
        assert [component.name for component in other.components()] == NAMES[2:]
        assert all(component.healthy for component in other.components())
        with psycopg.connect(settings.order_database_url) as connection:
            assert connection.execute("select count(*) from orders").fetchone() == (0,)
    finally:
        other.down()
        execute(stack, "drop database external with (force)")


def test_two_concurrent_ups_start_one_stack_that_ends_with_its_up(shared: Stack) -> None:
    shared.down()
    with _run(shared, "up") as one, _run(shared, "up") as other:
        eventually(shared.is_up, SECONDS)
        eventually(lambda: one.poll() is not None or other.poll() is not None, SECONDS)
        starter, second = (one, other) if one.poll() is None else (other, one)
        assert second.returncode == 0
        assert "already up" in second.communicate()[0]
        components = Stack(shared.settings).components()
        assert [component.name for component in components] == NAMES + CLIENTS
        assert all(component.restarts == 0 and component.healthy for component in components)
        starter.kill()
    eventually(lambda: processes_in(shared.settings.home) == [], SECONDS)


def test_a_start_right_after_a_killed_one_waits_for_its_shutdown(shared: Stack) -> None:
    shared.down()
    with _run(shared, "up") as killed:
        eventually(shared.is_up, SECONDS)
        killed.kill()
    # From the first moment of the shutdown, which takes seconds.
    eventually(lambda: not shared.is_up(), SECONDS)
    assert shared.components() == []
    assert shared.up(bound=True)


def test_ctrl_c_stops_a_stack_that_variables_of_other_programs_do_not_affect(shared: Stack) -> None:
    shared.down()
    with _run(shared, "up", **FOREIGN_VARIABLES) as foreground:
        eventually(shared.is_up, SECONDS)
        # Twice, as users do.
        foreground.send_signal(signal.SIGINT)
        foreground.send_signal(signal.SIGINT)
        output = foreground.communicate(timeout=60)[0]
        assert foreground.returncode == 0, output
    assert processes_in(shared.settings.home) == []


@pytest.mark.parametrize("module", ["orchestrator", "loadtest.demo"])
def test_an_interrupted_start_leaves_no_process(shared: Stack, module: str) -> None:
    shared.down()
    arguments = ["up"] if module == "orchestrator" else []
    with _run(shared, *arguments, module=module) as foreground:
        eventually(
            lambda: any("postgres" in process for process in processes_in(shared.settings.home)), SECONDS
        )
        foreground.send_signal(signal.SIGTERM)
        output = foreground.communicate(timeout=60)[0]
        assert "Traceback" not in output
        assert foreground.returncode == 1, output
    assert processes_in(shared.settings.home) == []


def test_an_interrupted_start_does_not_affect_a_waiting_one(shared: Stack) -> None:
    shared.down()
    with _run(shared, "up") as first:
        eventually(
            lambda: any("postgres" in process for process in processes_in(shared.settings.home)), SECONDS
        )
        first.send_signal(signal.SIGSTOP)
        with _run(shared, "up") as second:
            assert second.stdout is not None
            assert "waiting for another command" in second.stdout.readline()
            first.send_signal(signal.SIGTERM)
            first.send_signal(signal.SIGCONT)
            first.communicate(timeout=60)
            assert first.returncode == 1
            eventually(lambda: shared.is_up() or second.poll() is not None, SECONDS)
            assert second.poll() is None
            second.send_signal(signal.SIGINT)
            output = second.communicate(timeout=60)[0]
            assert second.returncode == 0, output


def test_an_unavailable_external_temporal_server_is_named(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.embedded.stack.EXTERNAL_TEMPORAL_SECONDS", 0.5)
    execute(stack, "create database unused")
    order_database_url = stack.settings.order_database_url.replace("/orders?", "/unused?")
    unavailable = {"database_url": order_database_url, "temporal_address": "127.0.0.1:1"}
    message = refusal(Stack(stack_settings(tmp_path).model_copy(update=unavailable)))
    assert "127.0.0.1:1" in message
    assert "TEMPORAL_ADDRESS" in message
    execute(stack, "drop database unused with (force)")


@contextmanager
def _run(
    stack: Stack, *arguments: str, module: str = "orchestrator", **variables: str
) -> Iterator[subprocess.Popen[str]]:
    environment = stack_environment(stack.settings) | variables
    del environment[STACK_MARKER]
    with killed_at_the_end(
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=PROJECT_ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    ) as process:
        yield process


@contextmanager
def _process_of(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with the environment variable that marks processes of a stack."""
    with killed_at_the_end(
        subprocess.Popen(["sleep", "600"], env={**os.environ, STACK_MARKER: str(home)}, text=True)
    ) as process:
        yield process
