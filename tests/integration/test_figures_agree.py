"""One load test with kills: every place that shows its counts and times has the same values."""

import asyncio
import csv
import io
import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import httpx
import numpy as np
import numpy.typing as npt
import pandas as pd
import psycopg
import pytest

from dashboard.view_models import run_tables
from db.database import Database
from db.maintenance.audit import audit_database
from db.read_models import latency, stored_runs
from db.read_models.latency import Selection
from db.read_models.percentiles import min_count
from db.read_only_database import ReadOnlyDatabase
from loadtest.verdict.verdict_rows import verdict_rows
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.rest_client import Json
from tests.command_line import CommandLine
from tests.dashboard.conftest import Pages, texts
from tests.live import LiveApi, eventually, new_id
from tests.load.report_page import ReportPage
from tests.ports import free_port_base

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

LIMIT_SECONDS = 2.5
SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
OPTIONS = {
    "scenario": "mixed",
    "rate": "5",
    "duration": "10s",
    "faults": "assignment",
    "chaos": "3s kill order-worker, 6s kill shipping-worker",
    "slo_seconds": f"{LIMIT_SECONDS}",
    # A single late order breaches it, so that JUnit has its text.
    "slo_target": "0.999",
    # On a busy machine the API rejects some starts. These orders are only in the verdict.
    "exclude_rejected": "true",
}

Times = dict[str, int]


@dataclass(frozen=True)
class LoadTest:
    """A finished load test. `page` is the JSON of Locust's page, `output` the text of its process."""

    run_id: str
    report: Json
    directory: Path
    csv_prefix: Path
    page: Json
    output: str
    database_url: str

    @property
    def orders(self) -> int:
        return int(self.report["limit"]["orders"])

    @property
    def late(self) -> int:
        return int(self.report["limit"]["late"])

    @property
    def times(self) -> Times:
        times: Json = self.report["times"]["completion_ms"]
        return {name: round(times[name]) for name in SHARES}

    @property
    def steps(self) -> dict[str, Times]:
        steps: Json = self.report["times"]["steps_ms"]
        return {step: {name: round(times[name]) for name in SHARES} for step, times in steps.items()}


@pytest.fixture(scope="module")
def finished(live_stack: Stack, live: LiveApi, tmp_path_factory: pytest.TempPathFactory) -> LoadTest:
    """Run the load test from Locust's page, and end its process, which completes the files of --csv."""
    run_id, prefix, port = new_id(), tmp_path_factory.mktemp("csv") / "locust", free_port_base()
    log = prefix.with_name("output")
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py"),
                *(f"--host={live.url}", f"--web-port={port}", f"--csv={prefix}"),
            ],
            cwd=PROJECT_ROOT,
            env=stack_environment(live_stack.settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as page:
            eventually(lambda: responds(page), seconds=60)
            form = {"user_count": "1", "spawn_rate": "1", "host": live.url, "run_id": run_id, **OPTIONS}
            started = page.post("/swarm", data=form).json()
            assert started["success"], started
            report = eventually(lambda: page.get("/verdict.json").json()["verdict"], seconds=120)
            table = eventually(lambda: complete(page.get("/stats/requests").json(), report))
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    return LoadTest(
        run_id, report, Path(report["report_dir"]), prefix, table, log.read_text(),
        live_stack.settings.order_database_url,
    )  # fmt: skip


def responds(page: httpx.Client) -> bool:
    try:
        return page.get("/verdict.json").is_success
    except httpx.TransportError:
        return False


def complete(table: Json, report: Json) -> Json | None:
    """Return the table when it is not the one that the page has cached for 2 s."""
    rows = [row for row in table["stats"] if row["name"] == "completion"]
    count = report["times"]["completion_ms"]["count"]
    return table if rows and rows[0]["num_requests"] == count else None


def test_the_load_test_has_late_orders_and_outcomes_of_every_order(finished: LoadTest) -> None:
    assert finished.report["run"]["offered"] == 50
    assert finished.report["times"]["completion_ms"]["count"] == finished.orders > 10
    assert finished.late > 0
    assert [kill["problem"] for kill in finished.report["disturbances"]] == [None, None]
    assert len(finished.report["outcomes"]) > 1
    assert sum(finished.report["outcomes"].values()) == finished.orders


def test_plain_sql(finished: LoadTest) -> None:
    with psycopg.connect(finished.database_url) as connection:
        row = connection.execute(
            "select count(*), count(*) filter (where completion_ms > %s), max(completion_ms),"
            " percentile_disc(array[0.5, 0.9, 0.95, 0.99]) within group (order by completion_ms)"
            " from orders where run_id = %s and finished_at is not null",
            (LIMIT_SECONDS * 1000, finished.run_id),
        ).fetchone()
        assert row is not None
        rollup = connection.execute(
            "select sum(orders)::int, sum(late)::int, max(longest_ms) from latency_rollup"
            " where run_id = %s and grain_seconds = 60",
            (finished.run_id,),
        ).fetchone()
    orders, late, longest, percentiles = row
    assert (orders, late) == (finished.orders, finished.late)
    assert dict(zip(SHARES, [*percentiles, longest], strict=True)) == finished.times
    assert rollup == (finished.orders, late, longest)


def test_plain_sql_for_outcomes_and_steps(finished: LoadTest) -> None:
    of_run = " from orders where run_id = %s and finished_at is not null"
    with psycopg.connect(finished.database_url) as connection:
        outcomes = connection.execute(f"select state, count(*){of_run} group by state", (finished.run_id,))
        assert dict(outcomes.fetchall()) == finished.report["outcomes"]
        assert len(finished.steps) == 9
        for step, times in finished.steps.items():
            row = connection.execute(
                f"select percentile_disc(array[0.5, 0.9, 0.95, 0.99, 1.0]) within group (order by {step}_ms)"
                + of_run,
                (finished.run_id,),
            ).fetchone()
            assert row == ([*times.values()],), step


@pytest.mark.parametrize("source", ["orders.csv", "API", "dashboard", "command"])
def test_pandas_over_each_csv(finished: LoadTest, live: LiveApi, live_stack: Stack, source: str) -> None:
    if source == "orders.csv":
        text = (finished.directory / "orders.csv").read_text()
    elif source == "API":
        text = live.http.get("/latency.csv", params={"run_id": finished.run_id}).text
    elif source == "dashboard":
        url = f"{live_stack.settings.local_url('dashboard')}/export/latency.csv"
        text = httpx.get(url, params={"run": finished.run_id}, trust_env=False, timeout=60).text
    else:
        command = CommandLine(stack_environment(live_stack.settings))
        code, text = asyncio.run(command.run("export", "--run", finished.run_id, "--csv", "-"))
        assert code == 0
    frame = pd.read_csv(io.StringIO(text), dtype={"order_id": str, "run_id": str}, keep_default_na=False)
    # orders.csv also has the rejected orders, without an outcome.
    frame = frame[frame["outcome"] != ""]
    times = frame["completion_ms"].astype(int).to_numpy()
    assert len(frame) == finished.orders
    assert (frame["within_limit"].astype(str).str.lower() == "false").sum() == finished.late
    assert (times > LIMIT_SECONDS * 1000).sum() == finished.late
    assert quantiles(times) == finished.times
    assert {step: quantiles(frame[f"{step}_ms"].astype(int)) for step in finished.steps} == finished.steps
    assert frame["outcome"].value_counts().to_dict() == finished.report["outcomes"]


def quantiles(times: npt.ArrayLike) -> Times:
    return {name: int(np.quantile(times, share, method="inverted_cdf")) for name, share in SHARES.items()}


def test_the_latency_and_the_audit_of_the_api(finished: LoadTest, live: LiveApi) -> None:
    report = live.http.get("/latency", params={"run_id": finished.run_id}).json()
    assert (report["count"], report["finished"], report["overdue"]) == (finished.orders, finished.orders, 0)
    assert report["late"] == finished.late
    assert {name: report["completion_ms"][name] for name in SHARES} == finished.times
    assert report["steps_ms"] == finished.report["times"]["steps_ms"]
    assert {name: n for name, n in report["outcomes"].items() if n} == finished.report["outcomes"]
    audited = live.http.get("/audit", params={"run_id": finished.run_id}).json()
    assert (audited["finished"], audited["late"], audited["open"]) == (finished.orders, finished.late, 0)
    assert finished.report["database"]["late"] == finished.late


async def test_the_audit_of_the_database_and_the_command(finished: LoadTest, live_stack: Stack) -> None:
    async with Database(finished.database_url) as database:
        audited = await audit_database(database, finished.run_id)
    assert (audited.finished, audited.late, audited.overdue) == (finished.orders, finished.late, 0)
    command = CommandLine(stack_environment(live_stack.settings))
    code, printed = await command.run("audit", "--run", finished.run_id, "--json")
    assert code == 0, printed
    report = json.loads(printed)
    assert (report["finished"], report["late"], report["open"]) == (finished.orders, finished.late, 0)


def test_terminal_markdown_and_junit(finished: LoadTest) -> None:
    limit = f"breached: {finished.late} late of {finished.orders} ({LIMIT_SECONDS:g} s)"
    times = finished.report["times"]
    shown = {"accept": times["accept_ms"], "completion": times["completion_ms"]}
    shown |= {"end to end": times["end_to_end_ms"]}
    shown |= {f"step {step}": spread for step, spread in times["steps_ms"].items()}
    for text, start in (
        (finished.output, ""),
        ((finished.directory / "summary.md").read_text(), "| "),
    ):
        words = " ".join(text.replace("│", " ").split())
        assert limit in words
        for outcome, n in finished.report["outcomes"].items():
            assert re.search(rf"\b{n} {outcome}\b", words), outcome
        for name, spread in shown.items():
            (row,) = [line for line in text.splitlines() if line.startswith(f"{start}{name} ")]
            columns = [column for column in ("count", "mean", *SHARES) if column in spread]
            assert re.findall(r"\d+", row) == [f"{spread[column]:.0f}" for column in columns], row
    assert shown["completion"]["count"] == finished.orders
    junit = ElementTree.parse(finished.directory / "junit.xml").getroot()
    (failure,) = [case[0] for case in junit if case.attrib["name"] == "limit"]
    assert failure.attrib["message"].startswith(limit)
    assert {row.label: row.value for row in verdict_rows(finished.report)}["limit"].startswith(limit)


def test_the_html_report(finished: LoadTest) -> None:
    page = ReportPage((finished.directory / "report.html").read_text())
    assert f"Orders{finished.orders}" in page.text
    assert f"Late{finished.late}" in page.text
    assert f"breached: {finished.late} late of {finished.orders} ({LIMIT_SECONDS:g} s)" in page.text
    # Too few orders for a p99.
    for name, label in (("p50", "p50"), ("max", "Longest")):
        assert f"{label}{finished.times[name] / 1000:.3f} s" in page.text
    played, figures = page.unpacked("playback-data"), page.unpacked("figures-data")["figures"]
    assert (len(played["ids"]), sum(played["late"])) == (finished.orders, finished.late)
    assert sorted(played["end"])[-1] == finished.times["max"]
    assert [each["name"].split(" (")[0] for each in played["disturbances"]] == [
        f"{each['verb']} {each['target']}" for each in finished.report["disturbances"]
    ]
    counted = [trace for trace in figures["chart-1"]["data"] if trace["type"] == "bar"]
    assert sum(sum(trace["y"]) for trace in counted) == finished.orders


def test_the_page_and_the_files_of_locust(finished: LoadTest) -> None:
    (row,) = [each for each in finished.page["stats"] if each["name"] == "completion"]
    assert (row["num_requests"], row["num_failures"]) == (finished.orders, finished.late)
    assert (round(row["median_response_time"]), round(row["max_response_time"])) == (
        finished.times["p50"],
        finished.times["max"],
    )
    for name in ("p95", "p99"):
        assert row[f"response_time_percentile_{SHARES[name]}"] == finished.times[name]
    shown = {"p50": "50%", "p90": "90%", "p95": "95%", "p99": "99%", "max": "100%"}
    for prefix in (finished.directory / "locust", finished.csv_prefix):
        (row,) = completions(f"{prefix}_stats.csv")
        assert (row["Request Count"], row["Failure Count"]) == (str(finished.orders), str(finished.late))
        assert {name: int(row[column]) for name, column in shown.items()} == finished.times
        late = [int(row["Occurrences"]) for row in completions(f"{prefix}_failures.csv")]
        assert sum(late) == finished.late
    late = [each["occurrences"] for each in finished.page["errors"] if each["name"] == "completion"]
    assert sum(late) == finished.late
    *_, last = csv.DictReader(Path(f"{finished.csv_prefix}_stats_history.csv").read_text().splitlines())
    (total,) = [each for each in finished.page["stats"] if each["name"] == "Aggregated"]
    assert int(last["Total Request Count"]) == total["num_requests"]


def completions(file: str) -> list[dict[str, str]]:
    rows = csv.DictReader(Path(file).read_text().splitlines())
    return [row for row in rows if row["Name"] == "completion"]


def test_the_dashboard(finished: LoadTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    database = ReadOnlyDatabase(finished.database_url)
    plan = latency.plan(database, Selection(run_id=finished.run_id))
    assert plan is not None
    summary = latency.summary(database, plan)
    times = stored_runs.times(database, finished.run_id)
    row = next(each for each in stored_runs.newest_runs(database, 10) if each["run_id"] == finished.run_id)
    slices, _ = latency.over_time(database, plan)
    database.close()
    assert (summary.orders, summary.late) == (finished.orders, finished.late)
    assert {each.value: n for each, n in summary.outcomes.items() if n} == finished.report["outcomes"]
    assert {name: summary.times_ms[share] for name, share in SHARES.items()} == finished.times
    assert max(each.times_ms[1.0] for each in slices) == finished.times["max"]
    assert (row["counted_orders"], row["late_orders"]) == (finished.orders, finished.late)
    assert round(row["p99_ms"]) == finished.times["p99"]
    assert times is not None
    assert sum(ms is None or ms > times.limit_ms for ms in times.completion_ms) == times.late
    assert run_tables.cdf(times)[-1] == (finished.times["max"], 1.0)
    pages = Pages(monkeypatch, tmp_path)
    page = pages.run("latency", finished.database_url, run=finished.run_id)
    stored = pages.run("load_tests", finished.database_url, run=finished.run_id)
    pages.reset()
    metrics = {metric.label: metric.value for metric in page.metric}
    assert (metrics["Orders"], metrics["Late"]) == (str(finished.orders), str(finished.late))
    for name, label in {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "max": "Longest"}.items():
        is_shown = finished.orders >= min_count(SHARES[name])
        assert metrics[label] == (f"{finished.times[name] / 1000:,.3f} s" if is_shown else "–")
    assert f"{finished.orders - finished.late} of {finished.orders} orders were within" in texts(page)
    assert f"Limit: {LIMIT_SECONDS:g} s" in texts(page)
    assert f"{finished.late} late of {finished.orders}" in texts(stored).replace("\\", "")
