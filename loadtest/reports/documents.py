"""Reports of a verdict as documents: JUnit XML, Markdown, and a CSV of the orders."""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from loadtest.generator.recording import OrderRecord
from loadtest.verdict.verdict_rows import TIME_COLUMNS, RowStatus, time_rows, verdict_rows
from orchestrator.rest_client import Json


def junit(report: Json) -> bytes:
    """Return the verdict as JUnit XML, with one test case for each check."""
    checks = [row for row in verdict_rows(report) if row.status is not RowStatus.INFO]
    suite = ElementTree.Element(
        "testsuite",
        name=f"loadtest.{report['scenario']}",
        tests=str(len(checks)),
        failures=str(sum(check.status is RowStatus.FAILED for check in checks)),
        errors="0",
        timestamp=report["started_at"],
    )
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=report["run_id"], name=check.label)
        if check.status is RowStatus.FAILED:
            failure = ElementTree.SubElement(case, "failure", message=check.value.splitlines()[0])
            failure.text = "\n".join((check.value, *check.details))
    ElementTree.indent(suite)
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def markdown(report: Json) -> str:
    """Return the verdict as Markdown, for a pull request or a page."""
    rows = verdict_rows(report)
    lines = [f"# Load test {report['run_id']}: {report['verdict']}", "", "| | |", "|---|---|"]
    lines += [f"| {row.label} | {_table_cell(row.value)} |" for row in rows]
    lines += ["", f"| ms | {' | '.join(TIME_COLUMNS)} |", "|---" * (len(TIME_COLUMNS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in time_rows(report["times"])]
    for row in rows:
        if row.details:
            lines += ["", f"## Failed check: {row.label}", "", *(f"- {detail}" for detail in row.details)]
    return "\n".join(lines) + "\n"


def orders_csv(finished: str, records: Iterable[OrderRecord], report: Json) -> str:
    """Return the latency CSV of a run with a row for every order that was sent.

    `finished` is the latency CSV of the API, which has the finished orders only. The columns that the load
    generator knows are added for the others: rejected, not accepted or unfinished.
    """
    columns, *rows = csv.reader(io.StringIO(finished))
    known = {row[0] for row in rows}
    start = datetime.fromisoformat(report["started_at"])
    added = io.StringIO()
    writer = csv.DictWriter(added, columns, restval="", extrasaction="ignore", lineterminator="\n")
    for record in records:
        order_id = _escape_formula(f"{report['run_id']}-{record.number}")
        if order_id not in known:
            writer.writerow(
                {
                    "order_id": order_id,
                    "run_id": _escape_formula(report["run_id"]),
                    "scenario": report["scenario"],
                    "requested_at": _timestamp(start, record.due),
                    "accepted_at": "" if record.accepted is None else _timestamp(start, record.accepted),
                    "within_limit": "false" if record.late else "",
                }
            )
    return finished + added.getvalue()


def _timestamp(start: datetime, seconds: float) -> str:
    at = (start + timedelta(seconds=seconds)).astimezone(UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escape_formula(name: str) -> str:
    """Escape a name that a spreadsheet would run as a formula, as the API does. A negative integer is no
    formula."""
    return f"'{name}" if name.startswith("-") and not name[1:].isdecimal() else name


def _table_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
