"""The files of a judged run, under ORDERS_HOME/reports/RUN_ID/.

`verdict.json` (everything), `junit.xml` (one test case a question), `summary.md`, `orders.csv` (CONTRACT
section 4), and Locust's own `locust_stats.csv`, `locust_failures.csv`, `locust_exceptions.csv` and
`locust.html`.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from locust.env import Environment
from locust.html import get_html_report
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV

from loadtest.judgement import Verdict
from loadtest.percentiles import PERCENTILES
from loadtest.wording import TIMES, facts

Json = dict[str, Any]


def write(directory: Path, verdict: Verdict, orders_csv: str | None, environment: Environment) -> None:
    """Writes all but the verdict; `orders_csv` None leaves that one out. Raises OSError when it cannot."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "junit.xml").write_bytes(junit(verdict.told))
    (directory / "summary.md").write_text(markdown(verdict.told), encoding="utf-8")
    if orders_csv is not None:
        (directory / "orders.csv").write_text(orders_csv, encoding="utf-8")
    locust = StatsCSV(environment, PERCENTILES_TO_REPORT)
    for name, write_rows in (
        ("stats", locust.requests_csv),
        ("failures", locust.failures_csv),
        ("exceptions", locust.exceptions_csv),
    ):
        _write_csv(directory / f"locust_{name}.csv", write_rows)
    html = get_html_report(environment, show_download_link=False)
    (directory / "locust.html").write_text(html, encoding="utf-8")


def write_verdict(directory: Path, verdict: Verdict) -> None:
    """Writes `verdict.json`, last: who sees it finds the others complete. Raises OSError when it cannot."""
    (directory / "verdict.json").write_text(json.dumps(verdict.told, indent=2) + "\n", encoding="utf-8")


def junit(told: Json) -> bytes:
    """The verdict as JUnit XML: the run, the limit and the books are a test case each."""
    run, limit, books = told["run"], told["limit"], told["books"]
    broken = [f"{each['order_id']}: {each['finding']}" for each in books["violations"]]
    broken += books["broken_promises"]
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
    if told["books"]["violations"]:
        lines += ["", "## Broken invariants", ""]
        lines += [
            f"- {each['invariant']}, order {each['order_id']}: {each['finding']}"
            for each in told["books"]["violations"]
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def _write_csv(path: Path, write_rows: Callable[[Any], None]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        write_rows(csv.writer(file))
