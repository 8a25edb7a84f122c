"""Measurements of a running dashboard: first runs, refreshes, first paints, CSV export, ten viewers."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import httpx

from dashboard import export
from dashboard.data.cached import CHART_SECONDS, LIVE_SECONDS
from dashboard.filters import cursor_of
from db.read_models import latency, order_search
from db.read_models.latency import Selection
from db.read_only_database import ReadOnlyDatabase
from loadtest.bench.harness import Measurement
from orchestrator.errors import StackError
from tests.bench.measures import at_most, spread
from tests.bench.server import DashboardProcess
from tests.bench.viewer import Viewer

if TYPE_CHECKING:
    from playwright.sync_api import ViewportSize

ROUNDS = 3
EXPORTED_ROWS = 100_000
MAX_EXPORT_SECONDS = 5.0
MAX_FIRST_RUN_MS, MAX_REFRESH_MS, MAX_PAINT_MS = 1_000.0, 300.0, 1_000.0
MAX_MEMORY_MB = 400.0
SCREEN: "ViewportSize" = {"width": 1440, "height": 900}
PAINT_ROUNDS = 6
IS_DRAWN = Path(__file__).with_name("is_drawn.js").read_text(encoding="utf-8")
VIEWERS = 10
OPEN_TIMEOUT_SECONDS = 30.0
VIEWING_SECONDS = 20.0
MAX_POSTGRES_CPU_PERCENT = 15.0

View = tuple[str, dict[str, str]]
"""Path and query of a page."""

Progress = Callable[[str], None]


def time_range(since: datetime, until: datetime) -> dict[str, str]:
    """Return the query of a time range, in UTC."""
    return {
        "since": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M}",
        "until": f"{until.astimezone(UTC):%Y-%m-%dT%H:%M}",
    }


def random_views(reader: ReadOnlyDatabase, order_ids: list[str], random: Random) -> dict[str, View]:
    """Return every page and its main filters, with a random order, run or time range."""
    runs = [str(row["run_id"]) for row in latency.run_names(reader)]
    run, baseline = random.sample(runs, 2)
    whole = latency.plan(reader, Selection())
    details = order_search.order_details(reader, random.choice(order_ids))
    assert whole is not None, "the database is seeded"
    assert details is not None, "order_ids are of seeded orders"
    since = whole.since + (whole.until - whole.since) * random.random() / 2
    week = time_range(since, since + timedelta(days=7))
    day = details.order["order_id"].rpartition("-")[0]
    return {
        "overview": ("", {}),
        "overview, an hour": ("", {"window": "1 h"}),
        "orders": ("orders", {}),
        "orders, failed, older": (
            "orders",
            {"state": "failed", "before": cursor_of(details.order["accepted_at"], details.order["order_id"])},
        ),
        "orders, of a day": ("orders", {"q": day}),
        "an order": ("orders", {"order": details.order["order_id"]}),
        "reviews": ("reviews", {}),
        "latency": ("latency", {}),
        "latency, a week": ("latency", week),
        "latency, a run": ("latency", {"run": run}),
        "latency, failed, under faults": ("latency", {"outcome": "failed", "faults": "assignment"}),
        "load tests": ("load_tests", {}),
        "load tests, a run": ("load_tests", {"run": run}),
        "load tests, two runs": ("load_tests", {"run": run, "baseline": baseline}),
        "audit, a run": ("audit", {"run": run}),
        "stage": ("stage", {}),
    }


def first_runs_and_refreshes(
    dashboard: DashboardProcess, reader: ReadOnlyDatabase, order_ids: list[str], progress: Progress
) -> Iterator[Measurement]:
    """Measure the first run of each view with an empty cache, then a refresh of its live fragments.

    A view without live fragments is run again instead.
    """
    random = Random(5)
    first_ms: dict[str, list[float]] = {}
    refresh_ms: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        progress(f"pages, round {number} of {ROUNDS}")
        began = time.monotonic()
        for name, (page, query) in random_views(reader, order_ids, random).items():
            with Viewer(dashboard.port, page, urlencode(query)) as viewer:
                first = viewer.run_page()
                if viewer.intervals:
                    # Wait until the data that live fragments share has expired.
                    time.sleep(LIVE_SECONDS + 0.1)
                refresh = viewer.refresh_all() if viewer.intervals else viewer.run_page()
            # In round 0 the process is still importing modules.
            if number > 0:
                first_ms.setdefault(name, []).append(first)
                refresh_ms.setdefault(name, []).append(refresh)
        time.sleep(max(0.0, CHART_SECONDS + 0.5 - (time.monotonic() - began)))
    for name in first_ms:
        yield at_most(f"page {name}: first run", first_ms[name], MAX_FIRST_RUN_MS, "ms", share=0.95)
        yield at_most(f"page {name}: refresh", refresh_ms[name], MAX_REFRESH_MS, "ms", share=0.95)


def csv_export(dashboard: DashboardProcess, reader: ReadOnlyDatabase) -> Measurement:
    """Measure the download of about EXPORTED_ROWS rows."""
    whole = latency.plan(reader, Selection())
    assert whole is not None, "the database is seeded"
    share = min(EXPORTED_ROWS / max(latency.summary(reader, whole).orders, 1), 1.0)
    query = time_range(whole.since, whole.since + (whole.until - whole.since) * share)
    url = f"{dashboard.url}{export.PATH}?{urlencode(query)}"
    memory_before, began, size, rows = dashboard.memory_mb(), time.perf_counter(), 0, -1
    with httpx.stream("GET", url, timeout=60, trust_env=False) as response:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            size += len(chunk)
            rows += chunk.count(b"\n")
    seconds = time.perf_counter() - began
    scaled = seconds * EXPORTED_ROWS / max(rows, 1)
    memory = max(dashboard.memory_mb() - memory_before, 0)
    return Measurement(
        f"export of {rows:,} rows, {size / 1e6:.0f} MB, over HTTP",
        f"{seconds:.2f} s ({scaled:.2f} s for {EXPORTED_ROWS:,}), {memory:.0f} MB more memory",
        f"≤ {MAX_EXPORT_SECONDS:g} s for {EXPORTED_ROWS:,}",
        scaled <= MAX_EXPORT_SECONDS,
    )


def first_paints(
    dashboard: DashboardProcess, reader: ReadOnlyDatabase, order_ids: list[str], progress: Progress
) -> Iterator[Measurement]:
    """Measure the time from navigation until the first screen, and every chart, is drawn.

    In a headless Chromium with a warm cache.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        yield Measurement(
            "first paint in a browser", "not measured: Chromium is not installed", f"≤ {MAX_PAINT_MS:,.0f} ms"
        )
        return
    random = Random(6)
    screen_ms: dict[str, list[float]] = {}
    whole_ms: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport=SCREEN)
        for number in range(PAINT_ROUNDS + 1):
            progress(f"first paint, round {number} of {PAINT_ROUNDS}")
            for name, (page, query) in random_views(reader, order_ids, random).items():
                # The end of the page before is not measured.
                tab.goto("about:blank")
                began = time.perf_counter()
                tab.goto(f"{dashboard.url}/{page}?{urlencode(query)}", wait_until="commit")
                for found, is_whole_page in ((screen_ms, False), (whole_ms, True)):
                    tab.wait_for_function(IS_DRAWN, arg=is_whole_page)
                    # In round 0 the browser has no cached scripts.
                    if number > 0:
                        found.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        browser.close()
    for name in screen_ms:
        yield at_most(f"page {name}: first paint", screen_ms[name], MAX_PAINT_MS, "ms", share=0.95)
        yield Measurement(f"page {name}: every chart drawn", spread(whole_ms[name], "ms"))


def ten_viewers(
    dashboard: DashboardProcess, order_ids: list[str], postgres_cpu_seconds: Callable[[], float] | None
) -> Iterator[Measurement]:
    """Measure dashboard memory and PostgreSQL CPU with ten open pages.

    `postgres_cpu_seconds` is None for an external PostgreSQL server.
    """
    views: list[View] = [
        *(("", {"window": window}) for window in ("1 min", "5 min", "15 min", "1 h")),
        ("", {}),
        ("reviews", {}),
        ("load_tests", {}),
        *(("orders", {"order": order_id}) for order_id in ("seed-running-1", "seed-running-2")),
        ("orders", {"order": order_ids[0]}),
    ]
    idle = _cpu_percent(postgres_cpu_seconds, lambda: time.sleep(VIEWING_SECONDS / 4))
    opened = threading.Barrier(len(views) + 1)
    stopping = threading.Event()
    memory: list[float] = []

    def view_for_a_while() -> None:
        memory.append(dashboard.memory_mb())
        time.sleep(VIEWING_SECONDS)
        memory.append(dashboard.memory_mb())

    with ThreadPoolExecutor(len(views)) as pool:
        viewers = [pool.submit(_keep_open, dashboard, view, opened, stopping) for view in views]
        try:
            opened.wait(OPEN_TIMEOUT_SECONDS)
            busy = _cpu_percent(postgres_cpu_seconds, view_for_a_while)
        except threading.BrokenBarrierError:
            raise StackError("Not all pages could be opened.") from None
        finally:
            stopping.set()
    for viewer in viewers:
        # A viewer that failed early would make the result too low.
        viewer.result()
    yield at_most(f"memory of the dashboard with {VIEWERS} open pages", [max(memory)], MAX_MEMORY_MB, "MB")
    measure, target = f"PostgreSQL CPU for {VIEWERS} open pages", f"< {MAX_POSTGRES_CPU_PERCENT:g} %"
    if busy is None or idle is None:
        yield Measurement(measure, "not measured: external PostgreSQL", target)
        return
    yield Measurement(
        measure,
        f"{busy - idle:.1f} % of a core, beyond {idle:.1f} % without them",
        target,
        busy - idle < MAX_POSTGRES_CPU_PERCENT,
    )


def _keep_open(
    dashboard: DashboardProcess, view: View, opened: threading.Barrier, stopping: threading.Event
) -> None:
    """Open a page and refresh its live fragments at their intervals, as a browser does."""
    page, query = view
    with Viewer(dashboard.port, page, urlencode(query)) as viewer:
        viewer.run_page()
        opened.wait(OPEN_TIMEOUT_SECONDS)
        next_at = {fragment: time.monotonic() + interval for fragment, interval in viewer.intervals.items()}
        while next_at and not stopping.is_set():
            fragment = min(next_at, key=lambda each: next_at[each])
            stopping.wait(max(0.0, next_at[fragment] - time.monotonic()))
            viewer.refresh(fragment)
            next_at[fragment] = time.monotonic() + viewer.intervals[fragment]
        stopping.wait()


def _cpu_percent(cpu_seconds: Callable[[], float] | None, work: Callable[[], None]) -> float | None:
    """Return the CPU use during `work`, in percent of a core."""
    before, began = cpu_seconds() if cpu_seconds else 0.0, time.monotonic()
    work()
    return 100 * (cpu_seconds() - before) / (time.monotonic() - began) if cpu_seconds else None
