"""Findings about what belongs together: orders, Temporal clusters and task queues."""

import asyncio
from collections.abc import Iterator, Sequence

import psycopg
from temporalio.client import Client
from temporalio.service import RPCError

from db.database import Database
from db.domain import TemporalNamespace
from db.maintenance.reconciliation import ReconcilerState, reconcilers
from orchestrator.errors import ServiceUnavailable, SettingsError, TaskQueueTaken
from orchestrator.operations.doctor.report import Finding, Report
from orchestrator.settings import Settings
from orchestrator.task_queue_claims import require_own_task_queues
from orchestrator.temporal_client import connect, temporal_namespace

CHECK_SECONDS = 3.0


async def check(settings: Settings) -> Report:
    """Check the reconciler and the task queues. Other checks report servers that are unavailable."""
    report = Report()
    try:
        async with (
            asyncio.timeout(CHECK_SECONDS),
            Database(settings.order_database_url, max_size=1, application_name="doctor") as database,
        ):
            states = await reconcilers(database)
            report.findings += stop_findings(states)
            client = await connect(settings, identity="doctor")
            report.findings += other_cluster_findings(states, await temporal_namespace(client))
            report.findings += await _queue_findings(settings, client, database)
    except (ServiceUnavailable, SettingsError, RPCError, TimeoutError, psycopg.Error):
        pass
    return report


async def _queue_findings(settings: Settings, client: Client, database: Database) -> list[Finding]:
    queues = (settings.order_task_queue, settings.shipping_task_queue)
    try:
        await require_own_task_queues(client, database, queues)
    except TaskQueueTaken as error:
        return [
            Finding(
                "task-queue-taken",
                str(error).split(";")[0] + ".",
                "Set TEMPORAL_NAMESPACE to a namespace that only this system uses, or correct DATABASE_URL.",
            )
        ]
    return []


def stop_findings(states: Sequence[ReconcilerState]) -> Iterator[Finding]:
    for state in states:
        if state.stopped_at is not None:
            yield Finding(
                "reconciler-stopped",
                f"The reconciler stopped at {state.stopped_at:%Y-%m-%d %H:%M:%S %Z}: {state.orphans} orders had no "
                f"running workflow, for example {', '.join(state.orphan_examples or [])}.",
                "Find out why (docs/how-to/respond-to-alerts.md#reconcilerstopped), then: orders reconciler resume.",
            )


def other_cluster_findings(
    states: Sequence[ReconcilerState], current: TemporalNamespace
) -> Iterator[Finding]:
    for state in states:
        if state.open_orders and state.temporal != current:
            yield Finding(
                "orders-of-another-cluster",
                f"{state.open_orders} open orders belong to namespace {state.namespace} of Temporal cluster "
                f"{state.cluster_id}; these settings lead to namespace {current.name} of cluster "
                f"{current.cluster_id}.",
                "Correct TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE or DATABASE_URL. If that cluster is lost: "
                f"orders reconciler adopt {state.cluster_id} --namespace {state.namespace}.",
            )
