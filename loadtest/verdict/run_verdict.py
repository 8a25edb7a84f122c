"""Verdict on a run: its validity, the SLO result, the audit and the measured times."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.generator.arrivals import planned_orders
from loadtest.generator.recording import Ending, OrderRecord
from loadtest.verdict.percentiles import spread
from loadtest.verdict.schema import SCHEMA_VERSION
from loadtest.verdict.slo import CONFIDENCE, SloResult, SloVerdict, evaluate_slo
from loadtest.verdict.validity import (
    SEND_DELAY_TOLERANCE_MS,
    RunObservations,
    lost_orders,
    on_time_share,
    planned_if_stopped,
    validity_problems,
)
from orchestrator.errors import ExitCode
from orchestrator.rest_client import Json


@dataclass(frozen=True)
class Verdict:
    """`report` is the whole verdict as JSON, as it is stored and written to verdict.json."""

    code: ExitCode
    slo: SloResult
    problems: list[str]
    report: Json


def compute_verdict(observed: RunObservations) -> Verdict:
    """Return the verdict. A broken invariant outranks an invalid run, which outranks the SLO result."""
    options, tally = observed.options, observed.tally
    late = sum(record.late for record in tally.records) + lost_orders(tally)
    orders = tally.offered - tally.skipped - tally.excluded
    slo = evaluate_slo(orders, late, options.slo_target, planned_if_stopped(observed))
    problems = validity_problems(observed, slo)
    code = _exit_code(observed, slo, problems)
    report = {
        "schema_version": SCHEMA_VERSION,
        "run_id": options.run_id,
        "verdict": code.text,
        "exit_code": int(code),
        "scenario": options.scenario.value,
        "started_at": observed.started_at.isoformat(timespec="milliseconds"),
        "ended_at": observed.ended_at.isoformat(timespec="milliseconds"),
        **observed.context,
        "options": options.to_json(),
        "run": _run_section(observed, problems),
        "limit": _limit_section(observed, slo),
        "database": _database_section(observed),
        "times": {
            "accept_ms": spread(record.accept_ms for record in tally.records),
            "end_to_end_ms": spread(record.end_to_end_ms for record in tally.records),
            "completion_ms": spread(record.completion_ms for record in tally.records),
            "steps_ms": (observed.latency or {}).get("steps_ms", {}),
        },
        "outcomes": dict(Counter(record.outcome for record in tally.records if record.outcome)),
        "requests": dict(sorted(tally.requests.items())),
        "disturbances": observed.disturbances,
    }
    return Verdict(code, slo, problems, report)


def _exit_code(observed: RunObservations, slo: SloResult, problems: Sequence[str]) -> ExitCode:
    audit = observed.audit
    if (audit is not None and not audit["clean"]) or observed.tally.broken_promises:
        return ExitCode.INVARIANT_BROKEN
    if problems:
        return ExitCode.INVALID_RUN
    return {
        SloVerdict.MET: ExitCode.PASSED,
        SloVerdict.BREACHED: ExitCode.LIMIT_BREACHED,
        SloVerdict.NOT_PROVEN: ExitCode.NOT_PROVEN,
    }[slo.verdict]


def _run_section(observed: RunObservations, problems: list[str]) -> Json:
    options, tally = observed.options, observed.tally
    # Orders that were sent late took longer than planned.
    sent = (record.due + record.send_delay_ms / 1000 for record in tally.records)
    seconds = max(observed.stopped_after or options.seconds, max(sent, default=0.0))
    generating = sum(report.seconds for report in tally.reports)
    return {
        "valid": not problems,
        "problems": problems,
        "planned": planned_orders(options),
        "offered": tally.offered,
        "skipped": tally.skipped,
        "rejected": sum(record.ending == Ending.REJECTED for record in tally.records),
        "unaccounted": tally.unaccounted,
        "stopped_after_seconds": observed.stopped_after,
        "offered_rate": round(tally.offered / seconds, 3) if seconds else 0.0,
        "on_time_share": on_time_share(observed),
        "completed_rate": _completed_rate(tally.records),
        "lag_ms": spread(record.send_delay_ms for record in tally.records),
        "lagging": sum(record.send_delay_ms > SEND_DELAY_TOLERANCE_MS for record in tally.records),
        "processes": observed.processes,
        "lost_workers": observed.lost_workers,
        "cpu_percent": round(100 * tally.cpu_seconds / generating, 1) if generating else 0.0,
        "cpu_ms_per_order": round(1000 * tally.cpu_seconds / max(tally.offered, 1), 3),
        "start_retries": sum(record.retries for record in tally.records),
        "outages": observed.outages,
    }


def _completed_rate(records: Sequence[OrderRecord]) -> float:
    """Return outcomes per second between the first and the last outcome."""
    ends = sorted(
        record.due + record.end_to_end_ms / 1000
        for record in records
        if record.ending == Ending.OUTCOME and record.end_to_end_ms is not None
    )
    if len(ends) < 2 or ends[-1] <= ends[0]:
        return 0.0
    return round((len(ends) - 1) / (ends[-1] - ends[0]), 3)


def _limit_section(observed: RunObservations, slo: SloResult) -> Json:
    options, records = observed.options, observed.tally.records
    return {
        "verdict": slo.verdict.value,
        "orders": slo.orders,
        "late": slo.late,
        "late_from_due": _late_from_due(records, options.slo_seconds),
        "endings": dict(Counter(record.ending for record in records)),
        "slo_seconds": options.slo_seconds,
        "target": slo.target,
        "late_bound": slo.late_bound,
        "confidence": CONFIDENCE,
        "more_needed": slo.more_needed,
    }


def _late_from_due(records: Sequence[OrderRecord], slo_seconds: float) -> int:
    """Return how many orders exceeded the limit from their scheduled send time, ingress included."""
    return sum(
        record.late or (record.end_to_end_ms is not None and record.end_to_end_ms > slo_seconds * 1000)
        for record in records
    )


def _database_section(observed: RunObservations) -> Json:
    audit = observed.audit or {}
    broken_promises = observed.tally.broken_promises
    return {
        "audited": observed.audit is not None,
        "clean": bool(audit.get("clean")) and not audit.get("uncompared") and not broken_promises,
        "finished": audit.get("finished", 0),
        "open": audit.get("open", 0),
        "late": audit.get("late", 0),
        "workflows_checked": audit.get("workflows_checked", 0),
        "uncompared": audit.get("uncompared", 0),
        "violations": audit.get("violations", []),
        "broken_promises": broken_promises,
    }
