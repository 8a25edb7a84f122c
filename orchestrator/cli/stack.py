"""Commands of the embedded stack: up, migrate, down, ps, kill."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import AsJson, console, echo, echo_step, print_error, print_json, table
from orchestrator.errors import DatabaseError, ExitCode, OrderSystemError, StackError, UsageError
from orchestrator.settings import Settings

# `orders worker` and `orders api` do not need this import at runtime; see _stack().
if TYPE_CHECKING:
    from orchestrator.embedded import ComponentStatus, Stack

POLL_SECONDS = 0.5
RECORD_SECONDS = 5.0
"""A killed PostgreSQL server restarts in 2 to 3 s."""


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(migrate)
    app.command()(down)
    app.command()(ps)
    app.command()(kill)


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when every component is healthy.")] = False,
) -> None:
    """Start PostgreSQL, Temporal, workers, API, dashboard and load generator. Ctrl-C stops them."""
    stack = _stack(Settings.load())
    with interrupt_on_signals() as raise_if_interrupted:
        if detach:
            _start(stack, bound=False)
            return
        try:
            if not _start(stack, bound=True):
                return
            echo("Press Ctrl-C to stop it.")
            wait_for_end(stack, raise_if_interrupted)
        except KeyboardInterrupt:
            echo("Stopping.")
            if not stack.is_up():
                # The interrupted start has stopped everything. A waiting `up` may be starting now.
                echo("The stack is down. Its data remains.")
                raise typer.Exit(ExitCode.CRASHED) from None
        stack.down(report=echo_step)
        echo("The stack is down. Its data remains.")


def migrate() -> None:
    """Apply pending migrations to the database of DATABASE_URL, whose user owns the tables."""
    from orchestrator.embedded import migrate as apply_migrations
    from orchestrator.startup import refuse
    from orchestrator.startup.configuration import configuration_findings

    settings = Settings.load()
    if settings.uses_embedded_postgres:
        raise UsageError(
            "DATABASE_URL is not set. `orders up` applies the migrations of the embedded server."
        )
    refuse(configuration_findings(settings))
    apply_migrations(settings)
    echo("All migrations are applied.")


def down() -> None:
    """Stop the stack. Its data remains."""
    settings = Settings.load()
    if _stack(settings).down(report=echo_step):
        echo("The stack is down. Its data remains.")
    else:
        echo(f"No stack was running in {settings.home}.")


def ps(as_json: AsJson = False) -> None:
    """Show the process, address, health and restarts of every component."""
    settings = Settings.load()
    components = _stack(settings).components()
    if as_json:
        print_json({"components": [component.as_json() for component in components]})
    elif components:
        console.print(_table(components))
    if not components:
        raise StackError(f"No stack is running in {settings.home}. Start it with `make up`.")


def kill(
    component: Annotated[str, typer.Argument(help="A name that `orders ps` shows.")],
    signal_name: Annotated[str, typer.Option("--signal", help="Name or number of the signal.")] = "SIGKILL",
) -> None:
    """Send a signal to a component. The supervisor restarts a component that exits."""
    number = _parse_signal(signal_name)
    settings = Settings.load()
    at = datetime.now(UTC)
    pid = _stack(settings).kill(component, number)
    echo(f"Sent {number.name} to {component} (process {pid}).")
    _record(settings, at, number, component)


def _record(settings: Settings, at: datetime, number: signal.Signals, component: str) -> None:
    """Record the signal for the charts. PostgreSQL may be the killed component."""
    from db import runs

    action = number.name.removeprefix("SIG").lower()
    try:
        runs.record_disturbance(
            settings.order_database_url,
            at=at,
            action=action,
            component=component,
            time_budget_seconds=RECORD_SECONDS,
        )
    except DatabaseError as error:
        print_error(f"The charts will not show this: {error}")


@contextmanager
def interrupt_on_signals() -> Iterator[Callable[[], None]]:
    """Raise KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP, also if the shell has set SIGINT to be ignored.

    Later signals are ignored, because they would interrupt the shutdown, whose duration is limited. Yields a
    function that raises KeyboardInterrupt after a signal whose exception was lost: Python only reports an
    exception that is raised in a finalizer or in a callback of C code.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    was_interrupted = False

    def raise_if_interrupted() -> None:
        if was_interrupted:
            raise KeyboardInterrupt

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal was_interrupted
        was_interrupted = True
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield raise_if_interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stack(settings: Settings) -> "Stack":
    from orchestrator.embedded import Stack

    return Stack(settings)


def _start(stack: "Stack", *, bound: bool) -> bool:
    began = time.monotonic()
    with console.status("Starting"):
        started = stack.up(bound=bound, report=echo_step)
    if started:
        echo(f"The stack is up after {time.monotonic() - began:.1f} s.")
    else:
        echo("The stack is already up.")
    echo_addresses(stack)
    return started


def wait_for_end(stack: "Stack", raise_if_interrupted: Callable[[], None]) -> None:
    """Return when another command has stopped the stack. Raises OrderSystemError if it was killed.

    `raise_if_interrupted` is that of `interrupt_on_signals`.
    """
    while stack.is_up():
        raise_if_interrupted()
        time.sleep(POLL_SECONDS)
    if stack.has_died():
        stack.down()
        raise OrderSystemError(
            "The process supervisor was killed, and the stack with it. Start the stack again."
        )
    echo("Another command stopped the stack.")


def echo_addresses(stack: "Stack") -> None:
    settings = stack.running_settings()
    addresses = {
        "Dashboard": settings.local_url("dashboard") + settings.dashboard_base_path,
        "API": f"{settings.api_url}/docs",
    }
    if settings.uses_embedded_temporal:
        addresses["Temporal UI"] = f"http://127.0.0.1:{settings.port('temporal_ui')}"
        addresses["Temporal"] = settings.temporal_target
    addresses["Load tests"] = settings.local_url("locust")
    addresses["Logs"] = str(settings.home / "logs")
    for name, address in addresses.items():
        echo(f"  {name:<12} {address}")


def _table(components: "list[ComponentStatus]") -> Table:
    rows = []
    for component in components:
        address = component.socket or (f"127.0.0.1:{component.port}" if component.port else "")
        health = (
            Text("healthy", style="green")
            if component.healthy
            else Text(f"not healthy ({component.state.lower()})", style="red")
        )
        rows.append((component.name, component.pid, address, health, component.restarts))
    return table("component, process, address, health, restarts", rows)


def _parse_signal(name: str) -> signal.Signals:
    """Accepts SIGKILL, KILL, kill and 9."""
    try:
        if name.isdecimal():
            return signal.Signals(int(name))
        return signal.Signals["SIG" + name.upper().removeprefix("SIG")]
    except (KeyError, ValueError):
        raise UsageError(
            f"Unknown signal {name!r}. Use a name such as SIGKILL, SIGTERM or SIGSTOP."
        ) from None
