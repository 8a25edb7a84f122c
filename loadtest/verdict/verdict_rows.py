"""View model of a verdict, for the terminal, Markdown, JUnit, Locust's page and the dashboard."""

from dataclasses import dataclass
from enum import StrEnum

from loadtest.verdict.comparison import comparison_text
from loadtest.verdict.percentiles import PERCENTILES
from loadtest.verdict.schema import upgraded
from orchestrator.rest_client import Json

TIME_COLUMNS = ("count", "mean", *PERCENTILES)
_TIMES = ("accept_ms", "completion_ms", "end_to_end_ms")
_MAX_LISTED_VIOLATIONS = 3


class RowStatus(StrEnum):
    """`passed` and `failed` rows are checks; `info` rows are measurements."""

    PASSED = "passed"
    FAILED = "failed"
    INFO = "info"


@dataclass(frozen=True)
class VerdictRow:
    """One line of a verdict. `details` lists every violation of a failed check."""

    label: str
    value: str
    status: RowStatus = RowStatus.INFO
    details: tuple[str, ...] = ()


def verdict_rows(report: Json) -> list[VerdictRow]:
    """Return the rows of a verdict in reading order, without its times (`time_rows`)."""
    report = upgraded(report)
    run, limit, database = report["run"], report["limit"], report["database"]
    rows = [
        VerdictRow("run", _run_text(run), _status(run["valid"]), tuple(run["problems"])),
        VerdictRow("load generator", _generator_text(run)),
        VerdictRow("limit", _limit_text(limit), _status(limit["verdict"] == "met")),
        VerdictRow(
            "invariants", _audit_text(database), _status(database["clean"]), tuple(_violations(database))
        ),
        VerdictRow("outcomes", _counts(report["outcomes"]) or "none"),
    ]
    if report["requests"]:
        # Names of requests contain commas.
        rows.append(VerdictRow("requests", _counts(report["requests"], separator="; ")))
    if run["outages"]:
        rows.append(VerdictRow("outages", "; ".join(run["outages"])))
    for disturbance in report["disturbances"]:
        label = f"{disturbance['verb']} {disturbance['target']} at {disturbance['at_seconds']:.1f} s"
        rows.append(VerdictRow(label, _disturbance_text(disturbance)))
    if comparison := report.get("comparison"):
        label = f"compared with {comparison['baseline']}"
        rows.append(VerdictRow(label, comparison_text(comparison)))
    if report.get("missing"):
        rows.append(VerdictRow("missing", "; ".join(report["missing"])))
    return rows


def time_rows(times: Json) -> list[tuple[str, list[str]]]:
    """Return (name, cells) of each measured time; the cells are TIME_COLUMNS, in ms."""
    spreads = {name.removesuffix("_ms").replace("_", " "): times[name] for name in _TIMES if times[name]}
    spreads |= {f"step {step}": spread for step, spread in times["steps_ms"].items()}
    return [
        (name, [f"{spread[column]:.0f}" if column in spread else "" for column in TIME_COLUMNS])
        for name, spread in spreads.items()
    ]


def _audit_text(database: Json) -> str:
    """Return the result of an audit in one or two lines."""
    if not database["audited"]:
        return "not audited: the API did not respond"
    text = (
        f"9 invariants checked on {database['finished']} orders; "
        f"{database['workflows_checked']} workflow results compared"
    )
    if violations := _violations(database):
        return f"{len(violations)} violations: {'; '.join(violations[:_MAX_LISTED_VIOLATIONS])}\n{text}"
    if database["uncompared"]:
        return f"no violation found, but {database['uncompared']} orders not compared: {text}"
    return f"no violation: {text}"


def _violations(database: Json) -> list[str]:
    found = [
        f"invariant {each['invariant']}, order {each['order_id']}: {each['finding']}"
        for each in database["violations"]
    ]
    return [*(f"order {promise}" for promise in database["broken_promises"]), *found]


def _status(is_passed: bool) -> RowStatus:
    return RowStatus.PASSED if is_passed else RowStatus.FAILED


def _run_text(run: Json) -> str:
    of_plan = "" if run["planned"] is None else f" of {run['planned']}"
    parts = [f"{run['offered']}{of_plan} orders sent at {run['offered_rate']:g}/s"]
    if run["on_time_share"] is not None:
        parts.append(f"{run['on_time_share']:.2%} of them on time")
    if delay := run["lag_ms"]:
        parts.append(
            f"send delay p50 {delay['p50']:.1f} ms, p99 {delay['p99']:.1f} ms, max {delay['max']:.1f} ms"
        )
    if run["rejected"]:
        parts.append(f"{run['rejected']} rejected (429)")
    parts.append(f"{run['skipped']} skipped, {run['unaccounted']} unaccounted for")
    if run["stopped_after_seconds"] is not None:
        parts.append(f"stopped after {run['stopped_after_seconds']:.1f} s")
    text = "; ".join(parts)
    return text if run["valid"] else f"INVALID: {'; '.join(run['problems'])}\n{text}"


def _generator_text(run: Json) -> str:
    text = (
        f"processes: {run['processes']}; {run['cpu_percent']:.0f} % CPU, "
        f"{run['cpu_ms_per_order']:.2f} ms CPU per order; {run['completed_rate']:g} outcomes/s"
    )
    return text + (f"; {run['start_retries']} starts retried" if run["start_retries"] else "")


def _limit_text(limit: Json) -> str:
    text = (
        f"{limit['verdict']}: {limit['late']} late of {limit['orders']} ({limit['slo_seconds']:g} s); "
        f"with {limit['confidence']:.0%} confidence at most {limit['late_bound']:.3%} are late, "
        f"allowed {1 - limit['target']:.3%}"
    )
    if limit["more_needed"]:
        text += f"; {limit['more_needed']} more orders, all of them on time, would prove the target"
    others = {name: n for name, n in limit["endings"].items() if name != "outcome"}
    if others:
        text += f"; without an outcome: {_counts(others)}"
    if limit["late_from_due"] != limit["late"]:
        text += f"; {limit['late_from_due']} late when counted from their scheduled send time"
    return text


def _disturbance_text(disturbance: Json) -> str:
    if disturbance["problem"]:
        return f"not carried out: {disturbance['problem']}"
    text = _late_after_text(disturbance)
    recovery = disturbance["recovery_seconds"]
    if disturbance["former_level_ms"] is None:
        return f"{text}; too few orders before it to measure an effect on completion time"
    if disturbance["too_few_after"]:
        return f"{text}; too few orders after it to measure an effect on completion time"
    if recovery is None:
        return f"{text}; completion time did not return to its earlier level"
    if recovery == 0:
        return f"{text}; no measurable effect on completion time"
    return f"{text}; completion time returned to its earlier level after {recovery:.1f} s"


def _late_after_text(disturbance: Json) -> str:
    if "late_after" not in disturbance:
        # A verdict of an earlier release.
        return f"{disturbance['made_late']} late orders after it"
    expected = disturbance["late_expected"]
    baseline = "unknown how many" if expected is None else f"{expected:.1f} expected"
    return (
        f"{disturbance['late_after']} late orders in the {disturbance['seconds_after']:.0f} s after it "
        f"({baseline} without it)"
    )


def _counts(counts: Json, separator: str = ", ") -> str:
    return separator.join(f"{count} {name}" for name, count in counts.items())
