"""What a report reads from the order database: the progress of the orders, and the slowest ones in detail."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from db.database import Row
from db.domain import State
from db.read_models import latency, order_search, playback
from db.read_models.latency import Disturbance, FaultSpan, Selection
from db.read_models.order_search import OrderDetails
from db.read_models.playback import PlayedOrder, PlayedOrders
from db.read_models.time_groups import TimeGroups, time_groups
from db.read_only_database import ReadOnlyDatabase
from loadtest.charts.run.why_late import disturbance_windows
from loadtest.generator.recording import OrderRecord
from orchestrator.rest_client import Json

SLOWEST = 10
MAX_PLAYED = 20_000
"""Orders in the playback of a report. They take 0.5 MB."""


@dataclass(frozen=True)
class RunDetails:
    """`slowest` are the rows of `db.read_models.latency.slowest`, `timelines` the same orders with their
    events. `disturbances` are all disturbances in the time of the run. `groups` have the times of late and
    slow orders, with `disturbance_names` by number."""

    orders: PlayedOrders
    slowest: list[Row]
    timelines: list[OrderDetails]
    faults: list[FaultSpan]
    disturbances: list[Disturbance]
    groups: TimeGroups
    disturbance_names: dict[int, str]


def read_details(database_url: str, report: Json) -> RunDetails:
    """Return the details of the run with this verdict. Raises DatabaseError."""
    run_id, limit_seconds = report["run_id"], report["limit"]["slo_seconds"]
    started_at, ended_at = (datetime.fromisoformat(report[name]) for name in ("started_at", "ended_at"))
    reader = ReadOnlyDatabase(database_url)
    try:
        plan = latency.plan(reader, Selection(run_id=run_id))
        slowest = (
            [] if plan is None else latency.slowest(reader, plan, latency.buckets(reader, plan), SLOWEST)
        )
        found = [order_search.order_details(reader, row["order_id"]) for row in slowest]
        others = [
            each for each in latency.disturbances(reader, started_at, ended_at) if each.run_id != run_id
        ]
        disturbances = sorted([*own_disturbances(report), *others], key=lambda each: each.at)
        windows, names = disturbance_windows(disturbances, started_at, ended_at, limit_seconds)
        return RunDetails(
            orders=playback.orders(reader, run_id, started_at, MAX_PLAYED),
            slowest=slowest,
            timelines=[each for each in found if each is not None],
            faults=latency.fault_spans(reader, started_at, ended_at),
            disturbances=disturbances,
            groups=time_groups(reader, run_id, windows),
            disturbance_names=names,
        )
    finally:
        reader.close()


def own_disturbances(report: Json) -> list[Disturbance]:
    """Return the disturbances that the run carried out."""
    started_at = datetime.fromisoformat(report["started_at"])
    return [
        Disturbance(
            report["run_id"], started_at + timedelta(seconds=each["at_seconds"]), each["verb"], each["target"]
        )
        for each in report["disturbances"]
        if not each["problem"]
    ]


def played_records(run_id: str, records: Iterable[OrderRecord]) -> PlayedOrders:
    """Return the orders as the load generator recorded them, without their steps."""
    shown = [
        PlayedOrder(
            f"{run_id}-{record.number}",
            round(record.accepted * 1000),
            None if record.completion_ms is None else round(record.completion_ms),
            None if record.outcome is None else State(record.outcome),
            record.late,
        )
        for record in records
        if record.accepted is not None
    ]
    shown.sort(key=lambda order: (order.accepted_ms, order.order_id))
    return PlayedOrders(playback.evenly_chosen(shown, MAX_PLAYED), len(shown))
