"""Report files of a run, under ORDERS_HOME/reports/RUN_ID/.

`verdict.json` (everything), `report.html` (verdict, charts and playback), `junit.xml` (one test case for each
check), `summary.md`, `orders.csv` (the latency CSV), and Locust's `locust_stats.csv`, `locust_failures.csv`,
`locust_exceptions.csv` and `locust.html`.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from locust.env import Environment
from locust.html import get_html_report
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV

from loadtest.generator.recording import OrderRecord
from loadtest.reports.documents import junit, markdown
from loadtest.reports.html_report import ReportInput, html_report
from loadtest.reports.run_details import RunDetails
from loadtest.verdict.run_verdict import Verdict
from orchestrator import output_file


def write_reports(
    directory: Path,
    verdict: Verdict,
    records: Sequence[OrderRecord],
    details: RunDetails | None,
    orders_csv: str | None,
    environment: Environment,
) -> None:
    """Write all files except verdict.json; `orders_csv` None omits that file. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    output_file.write(directory / "junit.xml", junit(verdict.report))
    output_file.write(directory / "summary.md", markdown(verdict.report))
    output_file.write(directory / "report.html", html_report(ReportInput(verdict.report, records, details)))
    if orders_csv is not None:
        output_file.write(directory / "orders.csv", orders_csv)
    locust = StatsCSV(environment, PERCENTILES_TO_REPORT)
    for name, write_rows in (
        ("stats", locust.requests_csv),
        ("failures", locust.failures_csv),
        ("exceptions", locust.exceptions_csv),
    ):
        rows = io.StringIO()
        write_rows(csv.writer(rows))
        output_file.write(directory / f"locust_{name}.csv", rows.getvalue())
    output_file.write(directory / "locust.html", get_html_report(environment, show_download_link=False))


def write_verdict(directory: Path, verdict: Verdict) -> None:
    """Write `verdict.json`. Call this last: the file marks a complete report. Raises OSError."""
    output_file.write(directory / "verdict.json", json.dumps(verdict.report, indent=2) + "\n")
