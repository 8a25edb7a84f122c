"""A judged run as documents for others: JUnit XML, Markdown, and the CSV of its orders. Pure functions."""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

from loadtest.generator.recording import OrderRecord
from loadtest.verdict.percentiles import PERCENTILES
from loadtest.verdict.verdict_text import TIMES, facts

Json = dict[str, Any]


def junit(told: Json) -> bytes:
    """The verdict as JUnit XML: the run, the limit and the books are a test case each."""
    run, limit, database = told["run"], told["limit"], told["books"]
    broken = [f"{each['order_id']}: {each['finding']}" for each in database["violations"]]
    broken += database["broken_promises"]
    if not database["clean"] and not broken:
        broken = [facts(told)["books"]]
    cases = {
        "run is valid": "\n".join(run["problems"]),
        "limit is met": "" if limit["verdict"] == "met" else facts(told)["limit"],
        "books are clean": "\n".join(broken),
    }
    suite = ElementTree.Element(
        "testsuite",
        name=f"loadtest.{told['scenario']}",
        tests=str(len(cases)),
        failures=str(sum(1 for problem in cases.values() if problem)),
        errors="0",
        timestamp=told["started_at"],
    )
    for name, problem in cases.items():
        case = ElementTree.SubElement(suite, "testcase", classname=told["run_id"], name=name)
        if problem:
            failure = ElementTree.SubElement(case, "failure", message=problem.splitlines()[0])
            failure.text = problem
    ElementTree.indent(suite)
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def markdown(told: Json) -> str:
    """The verdict for a pull request or a page."""
    lines = [f"# Load test {told['run_id']}: {told['verdict']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(fact)} |" for name, fact in facts(told).items()]
    lines += ["", "| ms | n | mean | p50 | p90 | p95 | p99 | max |", "|---|---|---|---|---|---|---|---|"]
    rows = {name.removesuffix("_ms").replace("_", " "): told["times"][name] for name in TIMES}
    rows |= {f"step {name}": spread for name, spread in told["times"]["steps_ms"].items()}
    for name, found in rows.items():
        if found is not None:
            cells = [f"{found[key]:g}" if key in found else "" for key in ("count", "mean", *PERCENTILES)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    broken = [
        f"- {each['invariant']}, order {each['order_id']}: {each['finding']}"
        for each in told["books"]["violations"]
    ]
    broken += [f"- order {promise}" for promise in told["books"]["broken_promises"]]
    if broken:
        lines += ["", "## Broken invariants", "", *broken]
    return "\n".join(lines) + "\n"


def orders_csv(finished: str, records: Iterable[OrderRecord], told: Json) -> str:
    """The orders of a run, a row each: those that have finished as the API tells them, and after them, with
    what the generator knows, those that were not accepted or have not finished."""
    columns, *rows = csv.reader(io.StringIO(finished))
    known = {row[0] for row in rows}
    zero = datetime.fromisoformat(told["started_at"])
    added = io.StringIO()
    writer = csv.DictWriter(added, columns, restval="", extrasaction="ignore", lineterminator="\n")
    for record in records:
        order_id = _text(f"{told['run_id']}-{record.number}")
        if order_id not in known:
            writer.writerow(
                {
                    "order_id": order_id,
                    "run_id": _text(told["run_id"]),
                    "scenario": told["scenario"],
                    "requested_at": _time(zero, record.due),
                    "accepted_at": "" if record.accepted is None else _time(zero, record.accepted),
                    "within_limit": "false" if record.late else "",
                }
            )
    return finished + added.getvalue()


def _time(zero: datetime, seconds: float) -> str:
    at = (zero + timedelta(seconds=seconds)).astimezone(UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(name: str) -> str:
    """A name that a spreadsheet would run as a formula gets an apostrophe in front, as the API's have."""
    return f"'{name}" if name.startswith("-") else name


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
