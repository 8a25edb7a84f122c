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

from locust.env import Environment
from locust.html import get_html_report
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV

from loadtest.reports.documents import junit, markdown
from loadtest.verdict.run_verdict import Verdict


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


def _write_csv(path: Path, write_rows: Callable[[Any], None]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        write_rows(csv.writer(file))
