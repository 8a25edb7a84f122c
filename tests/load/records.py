"""Order records and observations for tests of the verdict."""

from datetime import UTC, datetime
from typing import Any

from loadtest.generator.recording import Ending, OrderRecord, Report, Tally
from loadtest.options import RunOptions
from loadtest.verdict.run_verdict import Verdict, compute_verdict
from loadtest.verdict.validity import RunObservations
from loadtest.verdict.verdict_rows import verdict_rows

AUDIT = {"clean": True, "finished": 10_000, "open": 0, "late": 0, "workflows_checked": 10_000,
         "uncompared": 0, "violations": []}  # fmt: skip


def record(number: int, due: float = 0.0, **known: Any) -> OrderRecord:
    usual: dict[str, Any] = {
        "send_delay_ms": 1.0, "accept_ms": 10.0, "accepted": due + 0.01, "completion_ms": 1_000.0,
        "end_to_end_ms": 1_010.0, "outcome": "completed", "ending": Ending.OUTCOME.value,
    }  # fmt: skip
    return OrderRecord(number, due, **(usual | known))


def observations(records: list[OrderRecord], **known: Any) -> RunObservations:
    tally = Tally()
    usual = {"offered": len(records), "skipped": 0, "broken_promises": [], "requests": {}}
    report = usual | known.pop("report", {})
    tally.add(
        Report(
            worker_index=0,
            open=0,
            overdue=0,
            cpu_seconds=1.0,
            seconds=10.0,
            records=records,
            **report,
        )
    )
    now = datetime.now(UTC)
    others: dict[str, Any] = {
        "audit": AUDIT, "latency": None, "started_at": now, "ended_at": now, "processes": 1,
    }  # fmt: skip
    options = RunOptions.parse({"run_id": "r", "rate": 10, "duration": "40s", "slo_target": 0.99})
    return RunObservations(options=known.pop("options", options), tally=tally, **(others | known))


def verdict_of(records: list[OrderRecord], **known: Any) -> Verdict:
    return compute_verdict(observations(records, **known))


def records(orders: int, late: int = 0) -> list[OrderRecord]:
    return [record(n, late=n < late) for n in range(orders)]


def rows(report: dict[str, Any]) -> dict[str, str]:
    """Return the rows of a verdict as label and value."""
    return {row.label: row.value for row in verdict_rows(report)}
