"""Validity of a run: reasons why its orders do not show how the system behaves under the planned load."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from loadtest.generator.arrivals import planned_orders
from loadtest.generator.recording import Ending, OrderRecord, Tally
from loadtest.options import Arrivals, RunOptions
from loadtest.verdict.slo import SloResult, evaluate_slo
from orchestrator.rest_client import Json

SEND_DELAY_TOLERANCE_MS = 250.0
"""An order that was sent later than this after its scheduled time did not meet the planned load."""

MIN_ON_TIME_SHARE = 0.95
"""A run that sent less than this share of its schedule tested a smaller load."""


@dataclass(frozen=True)
class RunObservations:
    """Everything that was measured in a run, as input for the verdict.

    `audit` and `latency` are None when the API did not return them; `stopped_after` is in seconds, None for a
    complete run; `is_drained` is true when every generator process has reported all of its orders; `failures`
    are the errors of generator processes.
    """

    options: RunOptions
    tally: Tally
    audit: Json | None
    latency: Json | None
    started_at: datetime
    ended_at: datetime
    processes: int
    lost_workers: int = 0
    failures: list[str] = field(default_factory=list)
    stopped_after: float | None = None
    is_drained: bool = True
    outages: list[str] = field(default_factory=list)
    disturbances: list[Json] = field(default_factory=list)
    context: Json = field(default_factory=dict)


def validity_problems(observed: RunObservations, slo: SloResult) -> list[str]:
    """Return one sentence for each reason why the run is invalid."""
    return [
        *_missing_orders(observed),
        *_schedule_problems(observed, slo),
        *_audit_problems(observed),
    ]


def planned_if_stopped(observed: RunObservations) -> int:
    """Return how many orders the complete run would have counted, if it was stopped early, else 0."""
    if observed.stopped_after is None:
        return 0
    tally = observed.tally
    planned = planned_orders(observed.options)
    # A closed loop has no schedule. It sends at most the orders of its rate.
    planned = observed.options.orders_at_rate if planned is None else planned
    return planned - tally.skipped - tally.excluded


def on_time_share(observed: RunObservations) -> float | None:
    """Return the share of scheduled orders that were sent on time; None for a closed loop."""
    if observed.options.arrivals is Arrivals.CLOSED or not observed.tally.offered:
        return None
    on_time = sum(record.send_delay_ms <= SEND_DELAY_TOLERANCE_MS for record in observed.tally.records)
    return min((on_time + lost_orders(observed.tally)) / observed.tally.offered, 1.0)


def lost_orders(tally: Tally) -> int:
    """Return the number of orders without a record, sent by a lost generator process. They count as late."""
    return max(tally.offered - tally.skipped - len(tally.records), 0)


def _missing_orders(observed: RunObservations) -> list[str]:
    tally = observed.tally
    problems = []
    if tally.offered == 0:
        problems.append("no order was sent")
    if observed.lost_workers:
        problems.append(f"generator processes lost with their orders: {observed.lost_workers}")
    problems += [f"a generator process failed: {failure}" for failure in observed.failures]
    if not observed.is_drained:
        problems.append("a generator process did not report all of its orders in time")
    if tally.unaccounted:
        problems.append(f"the result of {tally.unaccounted} sent orders is unknown")
    return problems


def _schedule_problems(observed: RunObservations, slo: SloResult) -> list[str]:
    options, tally = observed.options, observed.tally
    problems = []
    share = on_time_share(observed)
    if share is not None and share < MIN_ON_TIME_SHARE:
        problems.append(f"the generator sent only {share:.1%} of the orders on time")
    planned = planned_orders(options)
    is_complete = planned is not None and observed.stopped_after is None
    if planned is not None and is_complete and 0 < tally.offered < MIN_ON_TIME_SHARE * planned:
        problems.append(f"only {tally.offered} of {planned} planned orders were sent")
    delayed = [record for record in tally.records if record.send_delay_ms > SEND_DELAY_TOLERANCE_MS]
    if options.arrivals is not Arrivals.CLOSED and _changes_result(
        slo, delayed, tally.skipped, planned_if_stopped(observed)
    ):
        problems.append(
            f"{len(delayed)} orders were sent more than {SEND_DELAY_TOLERANCE_MS:.0f} ms late and "
            f"{tally.skipped} were not sent, which could change the SLO result"
        )
    return problems


def _changes_result(slo: SloResult, delayed: Sequence[OrderRecord], skipped: int, planned: int) -> bool:
    """Return True if the SLO result could differ, had the delayed and skipped orders been sent on time.

    Worst case: all of them are late. Best case: all of them are on time.
    """
    if not delayed and not skipped:
        return False
    late = sum(record.late for record in delayed)
    orders = slo.orders + skipped
    if orders == 0:
        return True
    worst = evaluate_slo(orders, slo.late + len(delayed) - late + skipped, slo.target, planned)
    best = evaluate_slo(orders, slo.late - late, slo.target, planned)
    return worst.verdict is not slo.verdict or best.verdict is not slo.verdict


def _audit_problems(observed: RunObservations) -> list[str]:
    audit, tally = observed.audit, observed.tally
    if audit is None:
        return ["the database could not be audited"]
    problems = []
    unfinished = sum(record.ending == Ending.UNFINISHED for record in tally.records)
    if audit["open"] > unfinished and not tally.unaccounted:
        problems.append(f"{audit['open']} orders of the run are still open in the database")
    if audit["uncompared"]:
        problems.append(f"{audit['uncompared']} orders were not compared with their workflows")
    accepted = sum(record.accepted is not None for record in tally.records)
    covered = audit["finished"] + audit["open"]
    if covered < accepted:
        problems.append(f"the audit covers {covered} of {accepted} accepted orders")
    return problems
