"""Commands of the reconciler: its state, and the decisions that only a person can make."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.output import AsJson, echo, print_json
from orchestrator.errors import UsageError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from db.database import Database
    from db.domain import TemporalNamespace
    from db.maintenance.reconciliation import ReconcilerState

reconciler = typer.Typer(
    help="Show the reconciler, let it continue, or give it the orders of a lost cluster."
)


def register(app: typer.Typer) -> None:
    app.add_typer(reconciler, name="reconciler")


@reconciler.callback(invoke_without_command=True)
def _show_by_default(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        show(as_json)


@reconciler.command()
def show(as_json: AsJson = False) -> None:
    """Show the leader, the open orders and the stop of the reconciler of each Temporal namespace."""
    states = asyncio.run(_states(Settings.load()))
    if as_json:
        print_json({"reconcilers": [state.to_json() for state in states]})
        return
    for state in states:
        leader = f"leader {state.leader}" if state.has_leader else "no leader"
        echo(
            f"Temporal cluster {state.cluster_id}, namespace {state.namespace}: {leader}, "
            f"{state.open_orders} open orders."
        )
        if state.stopped_at is not None:
            echo(
                f"  Stopped since {state.stopped_at:%Y-%m-%d %H:%M:%S %Z}: {state.orphans} orphaned orders, "
                f"for example {', '.join(state.orphan_examples or [])}."
            )


@reconciler.command()
def resume() -> None:
    """Let a stopped reconciler close all orders that are orphaned now."""
    resumed = asyncio.run(_resume(Settings.load()))
    if not resumed:
        echo("The reconciler is not stopped.")
    for temporal in resumed:
        echo(f"The reconciler of cluster {temporal.cluster_id}, namespace {temporal.name} continues.")


@reconciler.command()
def adopt(
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="Id of the lost Temporal cluster.")],
    namespace: Annotated[
        str | None, typer.Option("--namespace", help="The lost namespace; by default TEMPORAL_NAMESPACE.")
    ] = None,
) -> None:
    """Refund, recall and close the open orders of a Temporal cluster that does not exist any more."""
    orders = asyncio.run(_adopt(Settings.load(), cluster, namespace))
    echo(f"{orders} orders moved to the Temporal cluster of these settings. Its reconciler closes them.")


async def _states(settings: Settings) -> "list[ReconcilerState]":
    from db.maintenance.reconciliation import reconcilers

    async with _database(settings) as database:
        return await reconcilers(database)


async def _resume(settings: Settings) -> "list[TemporalNamespace]":
    from db.maintenance import reconciliation

    async with _database(settings) as database:
        return await reconciliation.resume(database)


async def _adopt(settings: Settings, cluster_id: str, namespace: str | None) -> int:
    """Return the number of orders. Raises UsageError if the cluster is not lost, or has no open orders."""
    from db.domain import TemporalNamespace
    from db.maintenance import reconciliation
    from orchestrator.temporal.client import connect, temporal_namespace

    current = await temporal_namespace(await connect(settings, identity="reconciler"))
    lost = TemporalNamespace(cluster_id, namespace or current.name)
    if lost == current:
        raise UsageError("This is the Temporal cluster and namespace of these settings; it is not lost.")
    async with _database(settings) as database:
        for state in await reconciliation.reconcilers(database):
            if state.temporal == lost and state.has_leader:
                raise UsageError(
                    f"Worker {state.leader} is connected to Temporal cluster {cluster_id}. Stop the workers "
                    "of that cluster first."
                )
        orders = await reconciliation.adopt(database, lost, current)
    if not orders:
        raise UsageError(f"No open order belongs to namespace {lost.name} of Temporal cluster {cluster_id}.")
    return orders


def _database(settings: Settings) -> "Database":
    from db.database import Database

    return Database(settings.order_database_url, max_size=1, application_name="reconciler")
