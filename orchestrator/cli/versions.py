"""Commands for a change of the workers' code: which versions there are, and which one is current."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from orchestrator.cli.output import AsJson, console, echo, print_json
from orchestrator.errors import UsageError
from orchestrator.settings import Settings

# The Temporal SDK takes half a second to import, which no other command should pay for.
if TYPE_CHECKING:
    from orchestrator.versions import Version, Versions

T = TypeVar("T")

versions = typer.Typer(help="Show or change which version of the workers' code new orders go to.")

BuildId = Annotated[str, typer.Argument(help="The WORKER_BUILD_ID of its workers.")]


def register(app: typer.Typer) -> None:
    app.add_typer(versions, name="versions")


@versions.callback(invoke_without_command=True)
def _show_by_default(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        show(as_json)


@versions.command()
def show(as_json: AsJson = False) -> None:
    """Show the versions, and how many orders still run on each."""
    found = _asked(lambda versions: versions.all())
    if as_json:
        print_json([asdict(version) for version in found])
    elif not found:
        echo("No worker has a version yet: start workers with WORKER_BUILD_ID set.")
    else:
        console.print(_table(found))


@versions.command("set-current")
def set_current(build_id: BuildId) -> None:
    """Send every new order to a version; orders under way stay with theirs."""
    _asked(lambda versions: versions.set_current(build_id))
    echo(f"New orders go to version {build_id}.")


@versions.command()
def ramp(
    build_id: BuildId,
    percentage: Annotated[float, typer.Argument(min=0, max=100, help="Of new orders; 0 ends it.")],
) -> None:
    """Send a share of new orders to a version, to see how it does."""
    _asked(lambda versions: versions.ramp(build_id, percentage))
    echo(f"{percentage:g} % of new orders go to version {build_id}.")


def _asked(question: Callable[["Versions"], Awaitable[T]]) -> T:
    """Raises UsageError for what Temporal refuses."""
    from temporalio.service import RPCError

    from orchestrator.temporal_client import connect
    from orchestrator.versions import Versions

    async def ask() -> T:
        settings = Settings.load()
        try:
            return await question(Versions(settings, await connect(settings, identity="cli")))
        except RPCError as error:
            raise UsageError(f"Temporal refuses this: {error.message}") from error

    return asyncio.run(ask())


def _table(found: "list[Version]") -> Table:
    table = Table("version", "of new orders", "running", "task queues", box=None, pad_edge=False)
    for version in found:
        table.add_row(
            version.build_id, f"{version.share:g} %", str(version.running), ", ".join(version.task_queues)
        )
    return table
