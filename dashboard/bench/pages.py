"""The pages of a running dashboard: first runs, refreshes, first paint, export, and what ten viewers cost."""

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlencode

import httpx

from dashboard import export, filters
from dashboard.bench.measures import Row, at_most
from dashboard.bench.server import Server
from dashboard.bench.viewer import Viewer
from dashboard.data.cached import CHART_SECONDS, LIVE_SECONDS
from dashboard.sections.orders_table import cursor_of
from db.read_models import latency, order_search
from db.read_models.latency import Selection
from db.read_only_database import ReadOnlyDatabase
from orchestrator.errors import StackError

ROUNDS = 3
EXPORTED = 100_000
EXPORT_SECONDS = 5.0
FIRST_MS, AGAIN_MS, PAINT_MS = 1_500.0, 500.0, 1_500.0
MEMORY_MB = 500.0
VIEWERS = 10
OPENING_SECONDS = 30.0
VIEWING_SECONDS = 20.0
POSTGRES_SHARE = 15.0

View = tuple[str, dict[str, str]]
"""A page's address and its query."""

Note = Callable[[str], None]


def some_views(reader: ReadOnlyDatabase, ids: list[str], chance: random.Random) -> dict[str, View]:
    """Every page, and what one may choose on it; each time with another order, run or span of time."""
    runs = [str(row["run_id"]) for row in latency.run_names(reader)]
    one, other = chance.sample(runs, 2)
    everything = latency.plan(reader, Selection())
    file = order_search.order_details(reader, chance.choice(ids))
    assert everything is not None, "the seeding makes orders"
    assert file is not None, "the orders are in the books"
    since = everything.since + (everything.until - everything.since) * chance.random() / 2
    week = filters.query_of(Selection(since=since, until=since + timedelta(days=7)))
    day = file.order["order_id"].rpartition("-")[0]
    return {
        "overview": ("", {}),
        "now, an hour": ("", {"window": "1 h"}),
        "orders": ("orders", {}),
        "orders, failed and older": ("orders", {"state": "failed", "before": cursor_of(file.order)}),
        "orders, of a day": ("orders", {"q": day}),
        "an order": ("orders", {"order": file.order["order_id"]}),
        "reviews": ("reviews", {}),
        "latency": ("latency", {}),
        "latency, a week": ("latency", week),
        "latency, a run": ("latency", {"run": one}),
        "latency, failed under faults": ("latency", {"outcome": "failed", "faults": "assignment"}),
        "load tests": ("load_tests", {}),
        "load tests, a run": ("load_tests", {"run": one}),
        "load tests, two runs": ("load_tests", {"run": one, "baseline": other}),
        "audit, a run": ("audit", {"run": one}),
    }


def runs_and_refreshes(server: Server, reader: ReadOnlyDatabase, ids: list[str], note: Note) -> Iterator[Row]:
    """Each view opened anew when nothing of it is kept any more; then what a tick of all its live parts
    costs, or where it has none, showing it again at once."""
    chance = random.Random(5)
    firsts: dict[str, list[float]] = {}
    agains: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        note(f"pages, round {number} of {ROUNDS}")
        began = time.monotonic()
        for name, (page, query) in some_views(reader, ids, chance).items():
            with Viewer(server.port, page, urlencode(query)) as viewer:
                first = viewer.show()
                if viewer.ticks:
                    # A tick reads anew; a page that stands still keeps its figures for a while.
                    time.sleep(LIVE_SECONDS + 0.1)
                again = viewer.tick() if viewer.ticks else viewer.show()
            # The first round of all is of a process that has not imported everything yet.
            if number > 0:
                firsts.setdefault(name, []).append(first)
                agains.setdefault(name, []).append(again)
        time.sleep(max(0.0, CHART_SECONDS + 0.5 - (time.monotonic() - began)))
    for name in firsts:
        yield at_most(f"page {name}: first run", firsts[name], FIRST_MS, "ms")
        yield at_most(f"page {name}: refresh", agains[name], AGAIN_MS, "ms")


def exported(server: Server, reader: ReadOnlyDatabase) -> Row:
    """Downloads about EXPORTED rows as a browser does."""
    whole = latency.plan(reader, Selection())
    assert whole is not None, "the seeding makes orders"
    share = min(EXPORTED / max(latency.summary(reader, whole).orders, 1), 1.0)
    chosen = Selection(since=whole.since, until=whole.since + (whole.until - whole.since) * share)
    before, began, size, lines = server.memory_mb(), time.perf_counter(), 0, -1
    with httpx.stream(
        "GET", server.url + filters.link(export.PATH, chosen), timeout=60, trust_env=False
    ) as answer:
        answer.raise_for_status()
        for piece in answer.iter_bytes():
            size += len(piece)
            lines += piece.count(b"\n")
    taken = time.perf_counter() - began
    per = taken * EXPORTED / max(lines, 1)
    more = max(server.memory_mb() - before, 0)
    return Row(
        f"export of {lines:,} rows, {size / 1e6:.0f} MB, over HTTP",
        f"{taken:.2f} s ({per:.2f} s for {EXPORTED:,}), {more:.0f} MB more memory",
        f"≤ {EXPORT_SECONDS:g} s for {EXPORTED:,}",
        per <= EXPORT_SECONDS,
    )


def first_paints(server: Server, reader: ReadOnlyDatabase, ids: list[str], note: Note) -> Iterator[Row]:
    """From the address to a drawn page, in a headless Chromium that has been here before."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        yield Row("first paint in a browser", "not measured: no Chromium here", f"≤ {PAINT_MS:,.0f} ms", None)
        return
    drawn = (
        "() => document.querySelector('h1') && !document.querySelector('[data-testid=stSkeleton]')"
        " && document.querySelector('[data-testid=stMain] :is(.js-plotly-plot, [data-testid=stDataFrame],"
        " [data-testid=stMetric], [data-testid=stMarkdownContainer])')"
    )
    chance = random.Random(6)
    times: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        for number in range(ROUNDS + 1):
            note(f"first paint, round {number} of {ROUNDS}")
            for name, (page, query) in some_views(reader, ids, chance).items():
                began = time.perf_counter()
                tab.goto(f"{server.url}/{page}?{urlencode(query)}", wait_until="commit")
                tab.wait_for_function(drawn)
                if number > 0:
                    times.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        browser.close()
    for name, found in times.items():
        yield at_most(f"page {name}: first paint", found, PAINT_MS, "ms")


def ten_viewers(
    server: Server, ids: list[str], postgres_cpu_seconds: Callable[[], float] | None
) -> Iterator[Row]:
    """What ten open pages cost PostgreSQL, with what the API asks it for them, and how much memory they take.

    `postgres_cpu_seconds` is None where PostgreSQL is not ours to watch.
    """
    views: list[View] = [
        *(("", {"window": window}) for window in ("1 min", "5 min", "15 min", "1 h")),
        ("", {}),
        ("reviews", {}),
        ("load_tests", {}),
        *(("orders", {"order": order_id}) for order_id in ("seed-flying-1", "seed-flying-2")),
        ("orders", {"order": ids[0]}),
    ]
    idle = _share_of_a_core(postgres_cpu_seconds, lambda: time.sleep(VIEWING_SECONDS / 4))
    opened = threading.Barrier(len(views) + 1)
    memory: list[float] = []

    def look_on() -> None:
        memory.append(server.memory_mb())
        time.sleep(VIEWING_SECONDS)
        memory.append(server.memory_mb())

    is_over = threading.Event()
    with ThreadPoolExecutor(len(views)) as pool:
        viewing = [pool.submit(_view, server, view, opened, is_over) for view in views]
        try:
            opened.wait(OPENING_SECONDS)
            busy = _share_of_a_core(postgres_cpu_seconds, look_on)
        except threading.BrokenBarrierError:
            raise StackError("not every page could be opened") from None
        finally:
            is_over.set()
    for view in viewing:
        # One that ended before its time would have cost too little.
        view.result()
    yield at_most(f"memory of the dashboard with {VIEWERS} open pages", [max(memory)], MEMORY_MB, "MB")
    if busy is None or idle is None:
        yield Row(f"PostgreSQL for {VIEWERS} open dashboards", "not measured: not ours", "< 15 %", None)
        return
    yield Row(
        f"PostgreSQL for {VIEWERS} open dashboards",
        f"{100 * (busy - idle):.1f} % of a core more than the {100 * idle:.1f} % without them",
        f"< {POSTGRES_SHARE:g} %",
        100 * (busy - idle) < POSTGRES_SHARE,
    )


def _view(server: Server, view: View, opened: threading.Barrier, is_over: threading.Event) -> None:
    page, query = view
    with Viewer(server.port, page, urlencode(query)) as viewer:
        viewer.show()
        opened.wait(OPENING_SECONDS)
        due = {part: time.monotonic() + interval for part, interval in viewer.ticks.items()}
        while due and not is_over.is_set():
            part = min(due, key=lambda each: due[each])
            is_over.wait(max(0.0, due[part] - time.monotonic()))
            viewer.refresh(part)
            due[part] = time.monotonic() + viewer.ticks[part]
        is_over.wait()


def _share_of_a_core(cpu_seconds: Callable[[], float] | None, meanwhile: Callable[[], None]) -> float | None:
    before, began = cpu_seconds() if cpu_seconds else 0.0, time.monotonic()
    meanwhile()
    return (cpu_seconds() - before) / (time.monotonic() - began) if cpu_seconds else None
