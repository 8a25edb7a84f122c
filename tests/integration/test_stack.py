"""The embedded stack with its real processes: up, down, crashes, and every refusal to start."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from orchestrator import cli
from orchestrator.embedded import Stack, Stage, components, postgres
from orchestrator.embedded.layout import PROJECT_ROOT, Layout, stack_environment
from orchestrator.errors import StackError
from orchestrator.settings import STACK_MARKER, Settings
from tests.ports import free_port_base

# Twice the usual: on a busy machine a whole start takes a minute.
pytestmark = [pytest.mark.stack, pytest.mark.timeout(360)]

NAMES = ["postgres", "temporal", "order-worker-1", "shipping-worker-1", "api"]
SCREENS = ["dashboard", "locust"]


def settings_in(home: Path) -> Settings:
    return Settings(
        orders_home=home,
        port_base=free_port_base(),
        database_url=None,
        temporal_address=None,
        temporal_host=None,
        order_workers=1,
        shipping_workers=1,
    )


def without_screens(settings: Settings) -> Stack:
    """The stack that most tests need; half the start's work is spared."""
    return Stack(
        settings,
        [component for component in components.components(settings) if component.stage < Stage.SCREENS],
    )


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with what paths may hold, and which is gone afterwards, as are all processes in it."""
    with_blanks = Path(tempfile.mkdtemp(prefix="orders %s; #1 ")).resolve()
    yield with_blanks
    Stack(settings_in(with_blanks)).down()
    shutil.rmtree(with_blanks)


@pytest.fixture(scope="module")
def shared() -> Iterator[Stack]:
    """One stack for the tests that leave a stack as they found it, or say so by taking `stack`."""
    directory = Path(tempfile.mkdtemp(prefix="orders-stack-")).resolve()
    stack = without_screens(settings_in(directory))
    try:
        yield stack
    finally:
        stack.down()
        shutil.rmtree(directory)


@pytest.fixture
def stack(shared: Stack) -> Stack:
    """The shared stack, up."""
    shared.up(bound=True)
    return shared


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    exit_code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def command(shared: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command of the CLI on the shared stack."""
    for name, value in stack_environment(shared.settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(STACK_MARKER)

    def run(*arguments: str) -> Said:
        return Said(cli.run(list(arguments)), *capsys.readouterr())

    return run


def eventually(condition: Callable[[], object], seconds: float = 120.0) -> None:
    not_after = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < not_after, "this did not happen in time"
        time.sleep(0.05)


def processes_in(home: Path) -> list[str]:
    """The living processes that belong to a stack, or to PostgreSQL, in this directory."""
    found = [f"{process.pid} postgres" for process in postgres.servers_on(home / "postgres")]
    for process in psutil.process_iter():
        try:
            if process.environ().get(STACK_MARKER) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.cmdline()}")
        except (psutil.Error, OSError):
            continue
    return found


def pids(stack: Stack) -> dict[str, int | None]:
    return {component.name: component.pid for component in stack.components()}


def refusal(stack: Stack) -> str:
    with pytest.raises(StackError) as refused:
        stack.up()
    assert processes_in(stack.settings.home) == []
    return str(refused.value)


def execute(stack: Stack, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(stack.settings.order_database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_every_component_is_healthy_and_its_own_process(stack: Stack) -> None:
    components = stack.components()
    assert [component.name for component in components] == NAMES
    assert all(component.healthy for component in components)
    assert len({component.pid for component in components}) == len(NAMES)


def test_up_again_says_that_it_is_up_already(stack: Stack, command: Command) -> None:
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
def test_what_is_killed_comes_back(stack: Stack, command: Command, name: str) -> None:
    before = {component.name: component for component in stack.components()}
    assert command("kill", name).exit_code == 0
    stack.wait_until_healthy()
    after = {component.name: component for component in stack.components()}
    assert after[name].pid != before[name].pid
    assert after[name].restarts == before[name].restarts + 1
    with psycopg.connect(stack.settings.order_database_url) as repository:
        kept = repository.execute(
            "select at from disturbances where component = %s and action = 'kill'", [name]
        )
        assert kept.rowcount == 1
    others = [other for other in NAMES if other != name]
    assert {other: after[other].pid for other in others} == {other: before[other].pid for other in others}


def test_kill_of_an_unknown_component_names_the_known_ones(stack: Stack, command: Command) -> None:
    result = command("kill", "nobody")
    assert result.exit_code == 2
    assert all(name in result.err for name in NAMES)
    assert command("kill", "api", "--signal", "NONSENSE").exit_code == 2


def test_a_frozen_worker_is_alive_until_it_goes_on(stack: Stack, command: Command) -> None:
    pid = pids(stack)["order-worker-1"]
    assert pid is not None
    assert command("kill", "order-worker-1", "--signal", "stop").exit_code == 0
    eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    assert command("kill", "order-worker-1", "--signal", "SIGCONT").exit_code == 0
    eventually(lambda: psutil.Process(pid).status() != psutil.STATUS_STOPPED)
    assert pids(stack)["order-worker-1"] == pid


def test_a_stopped_component_stays_away_until_it_is_started(stack: Stack) -> None:
    stack.stop("shipping-worker-1")
    stopped = {component.name: component for component in stack.components()}["shipping-worker-1"]
    assert stopped.pid is None
    assert not stopped.healthy
    with pytest.raises(StackError, match="does not run"):
        stack.kill("shipping-worker-1")
    stack.start("shipping-worker-1")
    stack.restart("shipping-worker-1")
    assert all(component.healthy for component in stack.components())


def test_a_component_that_died_often_in_a_long_life_is_started_all_the_same(stack: Stack) -> None:
    stack.stop("api")
    starts = Layout.of(stack.settings).starts("api")
    with starts.open("a") as noted:
        noted.write(f"{os.getpid()} {time.time()}\n" * 10)
    stack.start("api")
    assert next(component for component in stack.components() if component.name == "api").restarts > 10


def test_the_books_are_migrated_and_durable(stack: Stack) -> None:
    assert execute(stack, "select count(*) from orders") == [(0,)]
    assert execute(stack, "select current_setting('fsync'), current_setting('synchronous_commit')") == [
        ("on", "on")
    ]


def test_nothing_listens_beyond_this_machine(stack: Stack) -> None:
    listening = [
        connection.laddr.ip
        for pid in pids(stack).values()
        for connection in psutil.Process(pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_down_leaves_no_process_and_the_next_up_has_the_data(stack: Stack, command: Command) -> None:
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


def test_after_a_killed_supervisor_nothing_is_left_and_the_next_up_mends(stack: Stack) -> None:
    layout = Layout.of(stack.settings)
    os.kill(stack.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: processes_in(stack.settings.home) == [])
    assert layout.supervisor_socket.exists()
    # In a container process ids come back soon: here the dead server's id is a living process.
    (layout.postgres_data / "postmaster.pid").write_text(f"{os.getpid()}\n{layout.postgres_data}\n")
    # Where there are no death signals, components outlive their supervisor.
    with _sleeper_of(stack.settings.home) as ours, _sleeper_of(Path("/another/home")) as another:
        assert stack.up(bound=True) is True
        assert ours.wait(1) != 0
        assert another.poll() is None
    assert all(component.healthy for component in stack.components())


def test_external_servers_are_used_and_not_started(stack: Stack, home: Path) -> None:
    execute(stack, "create database external")
    settings = settings_in(home).model_copy(
        update={
            "database_url": stack.settings.order_database_url.replace("/orders?", "/external?"),
            "temporal_address": stack.settings.temporal_target,
            "order_task_queue": "other-order-tq",
            "shipping_task_queue": "other-shipping-tq",
        }
    )
    other = without_screens(settings)
    try:
        other.up(bound=True)
        assert [component.name for component in other.components()] == NAMES[2:]
        assert all(component.healthy for component in other.components())
        with psycopg.connect(settings.order_database_url) as connection:
            assert connection.execute("select count(*) from orders").fetchone() == (0,)
    finally:
        other.down()
        execute(stack, "drop database external with (force)")


def test_two_at_once_start_one_whole_stack_which_a_killed_up_takes_along(shared: Stack) -> None:
    shared.down()
    with _orchestrator(shared, "up") as one, _orchestrator(shared, "up") as other:
        eventually(lambda: shared.is_up())
        eventually(lambda: one.poll() is not None or other.poll() is not None)
        starter, second = (one, other) if one.poll() is None else (other, one)
        assert second.returncode == 0
        assert "already up" in second.communicate()[0]
        components = Stack(shared.settings).components()
        assert [component.name for component in components] == NAMES + SCREENS
        assert all(component.restarts == 0 and component.healthy for component in components)
        starter.kill()
    eventually(lambda: processes_in(shared.settings.home) == [])


def test_ctrl_c_ends_up_and_everything_with_it(shared: Stack) -> None:
    shared.down()
    with _orchestrator(shared, "up") as foreground:
        eventually(lambda: shared.is_up())
        # An impatient person presses it twice.
        foreground.send_signal(signal.SIGINT)
        foreground.send_signal(signal.SIGINT)
        said = foreground.communicate(timeout=60)[0]
        assert foreground.returncode == 0, said
    assert processes_in(shared.settings.home) == []


@pytest.mark.parametrize("module", ["orchestrator", "loadtest.demo"])
def test_a_start_that_is_broken_off_leaves_nothing(shared: Stack, module: str) -> None:
    shared.down()
    arguments = ["up"] if module == "orchestrator" else []
    with _orchestrator(shared, *arguments, module=module) as foreground:
        eventually(lambda: any("postgres" in process for process in processes_in(shared.settings.home)))
        foreground.send_signal(signal.SIGTERM)
        said = foreground.communicate(timeout=60)[0]
        assert "Traceback" not in said
        assert foreground.returncode == 1, said
    assert processes_in(shared.settings.home) == []


def test_a_start_that_is_broken_off_leaves_alone_the_one_that_waited_for_it(shared: Stack) -> None:
    shared.down()
    with _orchestrator(shared, "up") as first:
        eventually(lambda: any("postgres" in process for process in processes_in(shared.settings.home)))
        first.send_signal(signal.SIGSTOP)
        with _orchestrator(shared, "up") as second:
            assert second.stdout is not None
            assert "waiting for it" in second.stdout.readline()
            first.send_signal(signal.SIGTERM)
            first.send_signal(signal.SIGCONT)
            first.communicate(timeout=60)
            assert first.returncode == 1
            eventually(lambda: shared.is_up() or second.poll() is not None)
            assert second.poll() is None
            second.send_signal(signal.SIGINT)
            said = second.communicate(timeout=60)[0]
            assert second.returncode == 0, said


def test_a_component_that_dies_at_once_is_named_with_its_last_words(home: Path) -> None:
    settings = settings_in(home)
    dying = (sys.executable, "-c", "raise SystemExit('no such thing as an API')")
    with_dying_api = [
        dataclasses.replace(component, command=dying) if component.name == "api" else component
        for component in components.components(settings)
    ]
    message = refusal(Stack(settings, with_dying_api))
    assert message.startswith("api ")
    assert "no such thing as an API" in message
    assert str(Layout.of(settings).log("api")) in message


def test_a_taken_port_is_named_with_its_owner_and_the_setting(home: Path) -> None:
    settings = settings_in(home)
    with socket.create_server(("127.0.0.1", settings.port("temporal_ui"))):
        message = refusal(Stack(settings))
    assert f"Port {settings.port('temporal_ui')}" in message
    assert f"process {os.getpid()}" in message
    assert "TEMPORAL_UI_PORT" in message
    assert not (home / "postgres").exists()


def test_a_temporal_elsewhere_that_does_not_answer_is_named(
    home: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.embedded.stack.EXTERNAL_TEMPORAL_SECONDS", 0.5)
    execute(stack, "create database nobody")
    order_database_url = stack.settings.order_database_url.replace("/orders?", "/nobody?")
    nowhere = {"database_url": order_database_url, "temporal_address": "127.0.0.1:1"}
    message = refusal(Stack(settings_in(home).model_copy(update=nowhere)))
    assert "127.0.0.1:1" in message
    assert "TEMPORAL_ADDRESS" in message
    execute(stack, "drop database nobody with (force)")


def test_one_port_wanted_twice_is_refused(home: Path) -> None:
    settings = settings_in(home)
    twice = settings.model_copy(update={"api_port": settings.port("temporal")})
    assert "API_PORT" in refusal(Stack(twice))


def test_data_of_another_postgres_version_is_left_alone(home: Path) -> None:
    data = home / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("16\n")
    message = refusal(Stack(settings_in(home)))
    assert "PostgreSQL 16" in message
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


def test_a_directory_that_is_no_data_directory_is_left_alone(home: Path) -> None:
    (home / "postgres").mkdir()
    (home / "postgres" / "letter.txt").write_text("dear data")
    assert "move it away" in refusal(Stack(settings_in(home)))
    assert (home / "postgres" / "letter.txt").read_text() == "dear data"


def test_a_full_disk_is_refused_before_anything_is_started(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=5 * 2**20))
    message = refusal(Stack(settings_in(home)))
    assert "5 MB free" in message
    assert not (home / "postgres").exists()


def test_a_disk_that_fills_up_while_the_data_is_made_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = home / "programs" / "bin"
    programs.mkdir(parents=True)
    initdb = programs / "initdb"
    initdb.write_text('#!/bin/sh\necho "could not write: No space left on device" >&2\nexit 1\n')
    (programs / "postgres").touch()
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setattr(postgres, "programs", lambda: programs)
    assert "is full" in refusal(Stack(settings_in(home)))
    assert not (home / "postgres").exists()
    assert not (home / "postgres.unfinished").exists()


def test_a_home_that_is_a_file_is_refused(home: Path) -> None:
    (home / "file").touch()
    assert "is a file" in refusal(Stack(settings_in(home / "file")))
    assert "ORDERS_HOME" in refusal(Stack(settings_in(home / "file" / "below")))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a place where nobody may write")
def test_a_home_that_cannot_be_written_is_refused() -> None:
    message = refusal(Stack(settings_in(Path("/proc/orders"))))
    assert "cannot be written" in message


def test_a_server_that_does_not_let_us_in_is_named_without_the_password(home: Path) -> None:
    settings = settings_in(home).model_copy(
        update={"database_url": "postgresql://somebody:secret@127.0.0.1:1/orders", "temporal_address": "x:1"}
    )
    message = refusal(Stack(settings))
    assert "DATABASE_URL" in message
    assert "secret" not in message


@contextmanager
def _orchestrator(
    stack: Stack, *arguments: str, module: str = "orchestrator"
) -> Iterator[subprocess.Popen[str]]:
    environment = stack_environment(stack.settings)
    del environment[STACK_MARKER]
    with _killed_at_the_end(
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
def _sleeper_of(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that carries the mark of a stack."""
    with _killed_at_the_end(
        subprocess.Popen(["sleep", "600"], env={**os.environ, STACK_MARKER: str(home)}, text=True)
    ) as process:
        yield process


@contextmanager
def _killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()
