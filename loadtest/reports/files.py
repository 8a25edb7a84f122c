"""Report files of a run, under ORDERS_HOME/reports/RUN_ID/.

`verdict.json` (everything), `junit.xml` (one test case for each check), `summary.md`, `orders.csv` (the
latency CSV), and Locust's `locust_stats.csv`, `locust_failures.csv`, `locust_exceptions.csv` and
`locust.html`.
"""

import csv
import json
from pathlib import Path

from locust.env import Environment
from locust.html import get_html_report
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV

from loadtest.reports.documents import junit, markdown
from loadtest.verdict.run_verdict import Verdict


def write_reports(
    directory: Path, verdict: Verdict, orders_csv: str | None, environment: Environment
) -> None:
    """Write all files except verdict.json; `orders_csv` None omits that file. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "junit.xml").write_bytes(junit(verdict.report))
    (directory / "summary.md").write_text(markdown(verdict.report), encoding="utf-8")
    if orders_csv is not None:
        (directory / "orders.csv").write_text(orders_csv, encoding="utf-8")
    locust = StatsCSV(environment, PERCENTILES_TO_REPORT)
    for name, write_rows in (
        ("stats", locust.requests_csv),
        ("failures", locust.failures_csv),
        ("exceptions", locust.exceptions_csv),
    ):
        with (directory / f"locust_{name}.csv").open("w", newline="", encoding="utf-8") as file:
            write_rows(csv.writer(file))
    html = get_html_report(environment, show_download_link=False)
    (directory / "locust.html").write_text(html, encoding="utf-8")


def write_verdict(directory: Path, verdict: Verdict) -> None:
    """Write `verdict.json`, after all other files: once it exists, the report is complete. Raises OSError."""
    (directory / "verdict.json").write_text(json.dumps(verdict.report, indent=2) + "\n", encoding="utf-8")
