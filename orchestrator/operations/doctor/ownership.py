"""Findings about the reconciler, orders of other Temporal clusters, and task queues of other order
databases."""

import asyncio
from collections.abc import Iterator, Sequence

import psycopg
from temporalio.service import RPCError

from db.database import Database
from db.domain import TemporalNamespace
from db.maintenance.reconciliation import ReconcilerState, reconcilers
from orchestrator.errors import ServiceUnavailable, SettingsError
from orchestrator.operations.doctor.report import Report
from orchestrator.settings import Settings
from orchestrator.startup import Finding
from orchestrator.startup.task_queue_claims import check_task_queues
from orchestrator.temporal.client import connect, temporal_namespace

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
            report.findings += await check_task_queues(settings, client)
    except (ServiceUnavailable, SettingsError, RPCError, TimeoutError, psycopg.Error):
        pass
    return report


def stop_findings(states: Sequence[ReconcilerState]) -> Iterator[Finding]:
    for state in states:
        if state.stopped_at is not None:
            yield Finding(
                "reconciler-stopped",
                f"The reconciler stopped at {state.stopped_at:%Y-%m-%d %H:%M:%S %Z}: {state.orphans} orders "
                f"had no running workflow, for example {', '.join(state.orphan_examples or [])}.",
                "Find out why (docs/how-to/respond-to-alerts.md#reconcilerstopped), then: orders reconciler "
                "resume.",
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
