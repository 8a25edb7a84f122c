"""One verdict from everything that a run has shown: the run itself, the limit, the books, the times."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from loadtest.generator.arrivals import planned_orders
from loadtest.generator.recording import Ending, OrderRecord, Tally
from loadtest.options import Arrivals, RunOptions
from loadtest.verdict.percentiles import spread
from loadtest.verdict.slo import CONFIDENCE, LimitJudgement, LimitVerdict, judge
from orchestrator.exit_codes import ExitCode

LAG_TOLERANCE_MS = 250.0
"""An order sent this much later than it was due counts as disturbed by the generator: its place in the load
was another one than planned."""

MIN_HELD_SHARE = 0.95
"""A run that offered less than this share of its plan has tested a smaller load."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What a run has left: the records, the audit of its books (None: it could not be had), the server's own
    latency split, and what happened to the generator. `stopped_after` are seconds, None for a full run;
    `is_drained` says whether every process has told that its orders are accounted for."""

    options: RunOptions
    tally: Tally
    audit: Json | None
    latency: Json | None
    started_at: datetime
    ended_at: datetime
    processes: int
    lost_workers: int = 0
    stopped_after: float | None = None
    is_drained: bool = True
    outages: list[str] = field(default_factory=list)
    disturbances: list[Json] = field(default_factory=list)
    context: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The whole verdict as it is stored and shown; `told` is its JSON."""

    code: ExitCode
    limit: LimitJudgement
    problems: list[str]
    told: Json


def decide(evidence: Evidence) -> Verdict:
    """Judges a run. A broken invariant outweighs an invalid run, which outweighs what it seems to show."""
    options, tally = evidence.options, evidence.tally
    late = sum(record.late for record in tally.records) + _lost(tally)
    orders = tally.offered - tally.skipped - tally.shed_apart
    limit = judge(orders, late, options.slo_target)
    problems = _problems(evidence, limit)
    code = _exit_code(evidence, limit, problems)
    told = {
        "run_id": options.run_id,
        "verdict": code.text,
        "exit_code": int(code),
        "scenario": options.scenario.value,
        "started_at": evidence.started_at.isoformat(timespec="milliseconds"),
        "ended_at": evidence.ended_at.isoformat(timespec="milliseconds"),
        **evidence.context,
        "options": options.to_json(),
        "run": _run(evidence, problems),
        "limit": {
            "verdict": limit.verdict.value,
            "orders": limit.orders,
            "late": limit.late,
            "late_from_due": _late_from_due(tally.records, options.slo_seconds),
            "endings": dict(Counter(record.ending for record in tally.records)),
            "slo_seconds": options.slo_seconds,
            "target": limit.target,
            "late_bound": limit.late_bound,
            "confidence": CONFIDENCE,
            "more_needed": limit.more_needed,
        },
        "books": _database(evidence),
        "times": {
            "accept_ms": spread(record.accept_ms for record in tally.records),
            "end_to_end_ms": spread(record.end_to_end_ms for record in tally.records),
            "completion_ms": spread(record.completion_ms for record in tally.records),
            "steps_ms": (evidence.latency or {}).get("steps_ms", {}),
        },
        "outcomes": dict(Counter(record.outcome for record in tally.records if record.outcome)),
        "requests": dict(sorted(tally.requests.items())),
        "disturbances": evidence.disturbances,
    }
    return Verdict(code, limit, problems, told)


def _exit_code(evidence: Evidence, limit: LimitJudgement, problems: Sequence[str]) -> ExitCode:
    audit = evidence.audit
    if (audit is not None and not audit["clean"]) or evidence.tally.broken_promises:
        return ExitCode.INVARIANT_BROKEN
    if problems:
        return ExitCode.INVALID_RUN
    return {
        LimitVerdict.MET: ExitCode.PASSED,
        LimitVerdict.BREACHED: ExitCode.LIMIT_BREACHED,
        LimitVerdict.NOT_PROVEN: ExitCode.NOT_PROVEN,
    }[limit.verdict]


def _problems(evidence: Evidence, limit: LimitJudgement) -> list[str]:
    """Why the run says nothing, in sentences; empty when it is valid."""
    options, tally = evidence.options, evidence.tally
    found = []
    if tally.offered == 0:
        found.append("no order was sent")
    if evidence.lost_workers:
        found.append(f"{evidence.lost_workers} generating process(es) were lost, and their share with them")
    if not evidence.is_drained:
        found.append("not every generating process has said in time that it drained")
    if tally.unaccounted:
        found.append(f"{tally.unaccounted} orders were sent, and nobody could say what became of them")
    held = _held_share(evidence)
    if held is not None and held < MIN_HELD_SHARE:
        found.append(f"the generator held only {held:.1%} of the offered rate")
    planned = planned_orders(options)
    if (
        planned is not None
        and evidence.stopped_after is None
        and 0 < tally.offered < MIN_HELD_SHARE * planned
    ):
        found.append(f"only {tally.offered} of {planned} planned orders were sent")
    disturbed = [record for record in tally.records if record.lag_ms > LAG_TOLERANCE_MS]
    if options.arrivals is not Arrivals.CLOSED and _lag_decides(limit, disturbed, tally.skipped):
        found.append(
            f"{len(disturbed)} orders were sent more than {LAG_TOLERANCE_MS:.0f} ms late and {tally.skipped} "
            "not at all, enough to have changed the answer"
        )
    if evidence.audit is None:
        found.append("the books could not be audited")
    elif evidence.audit["open"] and not tally.unaccounted:
        known_open = sum(record.ending == Ending.UNFINISHED for record in tally.records)
        if evidence.audit["open"] > known_open:
            found.append(f"{evidence.audit['open']} orders of the run are still open in the books")
    if evidence.audit is not None:
        found += _not_audited(evidence.audit, tally)
    return found


def _not_audited(audit: Json, tally: Tally) -> list[str]:
    """What the audit has left out of orders that the generator knows."""
    found = []
    if audit["uncompared"]:
        found.append(f"{audit['uncompared']} orders were not compared with their workflows")
    accepted = sum(record.accepted is not None for record in tally.records)
    covered = audit["judged"] + audit["open"]
    if covered < accepted:
        found.append(f"the audit covers {covered} orders, and {accepted} were accepted")
    return found


def _lag_decides(limit: LimitJudgement, disturbed: Sequence[OrderRecord], skipped: int) -> bool:
    """Whether another verdict were possible, had the disturbed and skipped orders been sent on time.

    At worst each of them that was on time would have been late; at best each late one on time.
    """
    if not disturbed and not skipped:
        return False
    late_ones = sum(record.late for record in disturbed)
    orders = limit.orders + skipped
    if orders == 0:
        return True
    worst = judge(orders, limit.late + len(disturbed) - late_ones + skipped, limit.target)
    best = judge(orders, limit.late - late_ones, limit.target)
    return worst.verdict is not limit.verdict or best.verdict is not limit.verdict


def _held_share(evidence: Evidence) -> float | None:
    """Orders sent within the tolerance, as a share of those that were due; None for a closed loop."""
    if evidence.options.arrivals is Arrivals.CLOSED or not evidence.tally.offered:
        return None
    on_time = sum(record.lag_ms <= LAG_TOLERANCE_MS for record in evidence.tally.records)
    return min((on_time + _lost(evidence.tally)) / evidence.tally.offered, 1.0)


def _lost(tally: Tally) -> int:
    """Orders without any record: those of a process that was lost. They count as late."""
    return max(tally.offered - tally.skipped - len(tally.records), 0)


def _late_from_due(records: Sequence[OrderRecord], slo_seconds: float) -> int:
    """How many took longer than the limit from the moment they were due, ingress included."""
    return sum(
        record.late or (record.end_to_end_ms is not None and record.end_to_end_ms > slo_seconds * 1000)
        for record in records
    )


def _run(evidence: Evidence, problems: list[str]) -> Json:
    options, tally = evidence.options, evidence.tally
    # Orders that were sent late took longer than planned.
    sent = (record.due + record.lag_ms / 1000 for record in tally.records)
    seconds = max(evidence.stopped_after or options.seconds, max(sent, default=0.0))
    generating = sum(report.seconds for report in tally.reports)
    return {
        "valid": not problems,
        "problems": problems,
        "planned": planned_orders(options),
        "offered": tally.offered,
        "skipped": tally.skipped,
        "shed": sum(record.ending == Ending.SHED for record in tally.records),
        "unaccounted": tally.unaccounted,
        "stopped_after_seconds": evidence.stopped_after,
        "offered_rate": round(tally.offered / seconds, 3) if seconds else 0.0,
        "held_share": _held_share(evidence),
        "completed_rate": _throughput(tally.records),
        "lag_ms": spread(record.lag_ms for record in tally.records),
        "lagging": sum(record.lag_ms > LAG_TOLERANCE_MS for record in tally.records),
        "processes": evidence.processes,
        "lost_workers": evidence.lost_workers,
        "cpu_percent": round(100 * tally.cpu_seconds / generating, 1) if generating else 0.0,
        "cpu_ms_per_order": round(1000 * tally.cpu_seconds / max(tally.offered, 1), 3),
        "start_retries": sum(record.retries for record in tally.records),
        "outages": evidence.outages,
    }


def _throughput(records: Sequence[OrderRecord]) -> float:
    """Outcomes a second, between the first and the last of them."""
    ends = sorted(
        record.due + record.end_to_end_ms / 1000
        for record in records
        if record.ending == Ending.OUTCOME and record.end_to_end_ms is not None
    )
    if len(ends) < 2 or ends[-1] <= ends[0]:
        return 0.0
    return round((len(ends) - 1) / (ends[-1] - ends[0]), 3)


def _database(evidence: Evidence) -> Json:
    audit = evidence.audit or {}
    return {
        "audited": evidence.audit is not None,
        "clean": bool(audit.get("clean"))
        and not audit.get("uncompared")
        and not evidence.tally.broken_promises,
        "judged": audit.get("judged", 0),
        "open": audit.get("open", 0),
        "late": audit.get("late", 0),
        "workflows_checked": audit.get("workflows_checked", 0),
        "uncompared": audit.get("uncompared", 0),
        "violations": audit.get("violations", []),
        "broken_promises": evidence.tally.broken_promises,
    }
