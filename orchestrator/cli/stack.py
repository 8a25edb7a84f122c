"""The commands of the embedded stack: up, down, ps, kill."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import AsJson, console, echo, echo_step, print_error, print_json
from orchestrator.errors import DatabaseError, StackError, UsageError
from orchestrator.exit_codes import ExitCode
from orchestrator.settings import Settings

# Workers and API start through this command line too, and would pay for the import; hence _stack().
if TYPE_CHECKING:
    from orchestrator.embedded import ComponentStatus, Stack

WATCH_SECONDS = 0.5
KEEP_SECONDS = 5.0
"""PostgreSQL that was killed is back in two or three."""


def register(app: typer.Typer) -> None:
    """Adds the commands to the application."""
    app.command()(up)
    app.command()(migrate)
    app.command()(down)
    app.command()(ps)
    app.command()(kill)


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when everything is healthy.")] = False,
) -> None:
    """Start PostgreSQL, Temporal, workers and API; stop them on Ctrl-C."""
    stack = _stack(Settings.load())
    with interrupt_on_signals():
        if detach:
            _start(stack, bound=False)
            return
        try:
            if not _start(stack, bound=True):
                return
            echo("Ctrl-C stops it.")
            _watch(stack)
        except KeyboardInterrupt:
            echo("Stopping.")
            if not stack.is_up():
                # What was started is stopped already; another `up` that has waited may begin right now.
                echo("The stack is down; its data stays.")
                raise typer.Exit(ExitCode.CRASHED) from None
        stack.down(report=echo_step)
        echo("The stack is down; its data stays.")


def migrate() -> None:
    """Bring the database of DATABASE_URL to the newest migration; the user of that URL owns the tables."""
    from orchestrator.embedded import migrate as apply_migrations

    settings = Settings.load()
    if settings.uses_embedded_postgres:
        raise UsageError("DATABASE_URL is not set; the embedded server is migrated by `up`")
    apply_migrations(settings)
    echo("The database has every migration.")


def down() -> None:
    """Stop the stack. Its data stays."""
    settings = Settings.load()
    if _stack(settings).down(report=echo_step):
        echo("The stack is down; its data stays.")
    else:
        echo(f"No stack was running in {settings.home}.")


def ps(as_json: AsJson = False) -> None:
    """Show every component: process, place, health, restarts."""
    settings = Settings.load()
    components = _stack(settings).components()
    if as_json:
        print_json({"components": [component.as_json() for component in components]})
    elif components:
        console.print(_table(components))
    if not components:
        raise StackError(f"No stack is running in {settings.home}. Start it with `make up`.")


def kill(
    component: Annotated[str, typer.Argument(help="A name that `ps` shows.")],
    signal_name: Annotated[str, typer.Option("--signal", help="The signal's name or number.")] = "SIGKILL",
) -> None:
    """Send a signal to a component; the supervisor starts again what dies of it."""
    number = _signal_named(signal_name)
    settings = Settings.load()
    at = datetime.now(UTC)
    pid = _stack(settings).kill(component, number)
    echo(f"Sent {number.name} to {component} (process {pid}).")
    _keep(settings, at, number, component)


def _keep(settings: Settings, at: datetime, number: signal.Signals, component: str) -> None:
    """Keeps it for the charts; that the books are away just then does not undo what was done."""
    from db import disturbances

    action = number.name.removeprefix("SIG").lower()
    try:
        disturbances.record(
            settings.order_database_url,
            at=at,
            action=action,
            component=component,
            time_budget_seconds=KEEP_SECONDS,
        )
    except DatabaseError as error:
        print_error(f"The charts will not show it: {error}")


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end a command as Ctrl-C does; Ctrl-C also where a shell started the
    command in the background, with SIGINT ignored. Only the first one counts: the next must not leave
    half a stack behind, and stopping is bounded in time anyway."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
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
    _echo_urls(stack)
    return started


def _watch(stack: "Stack") -> None:
    """Returns when somebody else has stopped the stack."""
    while stack.is_up():
        time.sleep(WATCH_SECONDS)
    if stack.has_died():
        stack.down()
        print_error("The process supervisor was killed, and the stack with it. Start it again.")
        raise typer.Exit(ExitCode.CRASHED)
    echo("The stack was stopped from elsewhere.")


def _echo_urls(stack: "Stack") -> None:
    settings = stack.running_settings()
    places = {
        "Dashboard": settings.local_url("dashboard"),
        "API": f"{settings.api_url}/docs",
    }
    if settings.uses_embedded_temporal:
        places["Temporal UI"] = f"http://127.0.0.1:{settings.port('temporal_ui')}"
        places["Temporal"] = settings.temporal_target
    places["Load tests"] = settings.local_url("locust")
    places["Logs"] = str(settings.home / "logs")
    for name, place in places.items():
        echo(f"  {name:<12} {place}")


def _table(components: "list[ComponentStatus]") -> Table:
    table = Table("component", "process", "place", "health", "restarts", box=None, pad_edge=False)
    for component in components:
        place = component.socket or (f"127.0.0.1:{component.port}" if component.port else "")
        health = (
            Text("healthy", style="green")
            if component.healthy
            else Text(f"not healthy ({component.state.lower()})", style="red")
        )
        table.add_row(component.name, str(component.pid or ""), Text(place), health, str(component.restarts))
    return table


def _signal_named(name: str) -> signal.Signals:
    """Takes `SIGKILL`, `KILL`, `kill` or `9`. Raises UsageError for anything else."""
    try:
        if name.isdecimal():
            return signal.Signals(int(name))
        return signal.Signals["SIG" + name.upper().removeprefix("SIG")]
    except (KeyError, ValueError):
        raise UsageError(f"There is no signal {name}; use a name like SIGKILL, SIGTERM or SIGSTOP.") from None
