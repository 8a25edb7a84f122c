"""`python -m dashboard.bench [--orders N]`: every query of every page at size, as a Markdown table.

Works on a database of its own, `orders_bench_N`, beside the books of the running stack (or the one of
DATABASE_URL's server): made and seeded when it is not there, kept for the next time.
"""

import argparse
import logging
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from streamlit.testing.v1 import AppTest

from dashboard.figures.targets import percentile
from db import charts, live, lookups, run_shelf
from db.charts import Selection
from db.lookups import Search
from db.reader import ROLE, Reader
from db.seed import seed, seed_now
from orchestrator.errors import OrderSystemError, StackError
from orchestrator.settings import Settings
from orchestrator.stack import Stack
from orchestrator.stack.migrations import migrate
from orchestrator.vocabulary import State

ORDERS = 1_000_000
FINISHED_LATELY = 20_000
"""In the last hour: more than five a second."""

IN_FLIGHT = 300
ROUNDS = 40
EXPORTED = 100_000
VIEWERS = 10
VIEWING_SECONDS = 20.0
PAGES = Path(__file__).parent / "pages"

Query = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    measure: str
    value: str
    target: str


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dashboard.bench", description=__doc__)
    parser.add_argument("--orders", type=int, default=ORDERS)
    options = parser.parse_args()
    # Streamlit warns at each page that is run without its server.
    logging.getLogger("streamlit").setLevel(logging.ERROR)
    try:
        settings = Settings.load()
        stack = Stack(settings)
        is_ours = settings.uses_embedded_postgres and not stack.is_up()
        if is_ours:
            stack.up()
        try:
            url = _database(settings, options.orders)
            seed_now(url, finished=FINISHED_LATELY, running=IN_FLIGHT)
            _say("| measure | value | target |\n|---|---|---|")
            for row in _measures(settings, url):
                _say(f"| {row.measure} | {row.value} | {row.target} |")
        finally:
            if is_ours:
                stack.down()
    except (OrderSystemError, psycopg.Error) as error:
        sys.stderr.write(f"The bench stopped: {error}\n")
        return 1
    return 0


def _database(settings: Settings, orders: int) -> str:
    """The URL of the seeded database. Raises StackError when the migrations cannot be applied."""
    name = f"orders_bench_{orders}"
    url = make_conninfo_url(settings.books_url, name)
    with psycopg.connect(settings.books_url, autocommit=True) as connection:
        there = connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone()
        if there is None:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    migrate(settings.model_copy(update={"database_url": url}))
    with psycopg.connect(url) as connection:
        found = connection.execute("select count(*) from orders").fetchone()
    if found == (0,):
        _note(f"seeding {orders:,} orders, once")
        seed(url, orders, progress=_note)
    elif found is not None and found[0] < orders:
        raise StackError(f"the database {name} was left half seeded; drop it and run this again")
    return url


def make_conninfo_url(books_url: str, database: str) -> str:
    """The same server's URL of another database."""
    head, _, rest = books_url.partition("://")
    place, slash, tail = rest.partition("/")
    _, question, query = tail.partition("?")
    return f"{head}://{place}{slash}{database}{question}{query}"


def _measures(settings: Settings, url: str) -> Iterator[Row]:
    conninfo = make_conninfo(url, user=ROLE) if settings.uses_embedded_postgres else url
    reader = Reader(conninfo)
    try:
        for name, query in _queries(reader).items():
            _note(name)
            query()
            times = [_timed_ms(query) for _ in range(ROUNDS)]
            yield Row(f"query: {name}", _spread(times), "p95 ≤ 100 ms")
        yield _export(reader)
    finally:
        reader.close()
    with _dashboard_of(conninfo):
        yield from _pages()
        yield from _viewers(settings)


def _queries(reader: Reader) -> dict[str, Query]:
    """Every query of every page, each round with another order, run or span of time."""
    chance = random.Random(1)
    runs = [str(row["run_id"]) for row in charts.run_names(reader)]
    everything = charts.plan(reader, Selection())
    assert everything is not None, "the seeding makes orders"
    ids = [str(row["order_id"]) for row in lookups.search(reader, Search(), 500)]
    length = everything.until - everything.since

    def some_time(share: float) -> Selection:
        since = everything.since + length * (1 - share) * chance.random()
        return Selection(since=since, until=since + length * share)

    def of(selection: Selection, query: Callable[[charts.Plan], object]) -> object:
        how = charts.plan(reader, selection)
        return query(how) if how is not None else None

    def every_chart(name: str, some: Callable[[], Selection]) -> dict[str, Query]:
        plans = [each for _ in range(ROUNDS + 1) if (each := charts.plan(reader, some())) is not None]
        buckets = {how: charts.buckets(reader, how) for how in plans}
        return {
            f"latency, {name}: size": lambda: charts.plan(reader, some()),
            f"latency, {name}: summary": lambda: charts.summary(reader, chance.choice(plans)),
            f"latency, {name}: histogram": lambda: charts.buckets(reader, chance.choice(plans)),
            f"latency, {name}: over time": lambda: charts.over_time(reader, chance.choice(plans)),
            f"latency, {name}: slowest": lambda: charts.slowest(
                reader, how := chance.choice(plans), buckets[how], 12
            ),
        }

    pairs = dict(zip(("everything", "a run", "an hour", "a week", "failed ones"), (
        lambda: Selection(),
        lambda: Selection(run_id=chance.choice(runs)),
        lambda: some_time(1 / 336),
        lambda: some_time(0.5),
        lambda: Selection(outcome=State.FAILED),
    ), strict=True))  # fmt: skip
    found: dict[str, Query] = {
        "now: in flight": lambda: live.in_flight(reader),
        "now: race": lambda: live.race(reader, 12),
        "now: pace": lambda: live.pace(reader, 120),
        "now: finished in the last hour": lambda: live.finished_lately(reader, 3_600),
        "now: last outcome": lambda: live.last_finished_at(reader),
        "now: faults": lambda: charts.faults_in_force(reader),
        "orders: newest": lambda: lookups.search(reader, Search(), 50),
        "orders: id": lambda: lookups.search(reader, Search(prefix=chance.choice(ids)[:-2]), 50),
        "orders: any of a day": lambda: lookups.search(reader, Search(prefix=chance.choice(ids)[:20]), 50),
        "orders: late": lambda: lookups.search(reader, Search(only_late=True), 50),
        "orders: failed": lambda: lookups.search(reader, Search(state=State.FAILED), 50),
        "orders: running": lambda: lookups.search(reader, Search(only_open=True), 50),
        "orders: late ones of a run": lambda: lookups.search(
            reader, Search(run_id=chance.choice(runs), only_late=True), 50
        ),
        "orders: one": lambda: lookups.order_file(reader, chance.choice(ids)),
        "review desk": lambda: live.waiting_for_a_person(reader, 25),
        "latency: faults and disturbances": lambda: (
            charts.fault_spans(reader, everything.since, everything.until),
            charts.disturbances(reader, everything.since, everything.until),
        ),
        "latency: names": lambda: (charts.run_names(reader), charts.fault_profiles(reader)),
        "load tests: shelf": lambda: run_shelf.shelf(reader, 100),
        "load tests: under way": lambda: run_shelf.under_way(reader),
        "load tests: a run": lambda: run_shelf.verdict(reader, chance.choice(runs)),
        "load tests: times of a run": lambda: run_shelf.times(reader, chance.choice(runs)),
    }
    for name, some in pairs.items():
        found |= every_chart(name, some)
    return found


def _export(reader: Reader) -> Row:
    """Streams about EXPORTED rows, and notes how much memory that took."""
    whole = charts.plan(reader, Selection())
    assert whole is not None
    share = min(EXPORTED / max(whole.orders, 1), 1.0)
    selection = Selection(since=whole.since, until=whole.since + (whole.until - whole.since) * share)
    before, began, size, lines = _memory_mb(), time.perf_counter(), 0, -1
    for piece in charts.latency_csv(reader, selection):
        size += len(piece)
        lines += piece.count(b"\n")
    taken = time.perf_counter() - began
    per = taken * EXPORTED / max(lines, 1)
    return Row(
        f"export of {lines:,} rows, {size / 1e6:.0f} MB",
        f"{taken:.2f} s ({per:.2f} s for {EXPORTED:,}), {max(_memory_mb() - before, 0):.0f} MB more memory",
        f"≤ 5 s for {EXPORTED:,}",
    )


def _pages() -> Iterator[Row]:
    for page in ("now", "orders", "review_desk", "latency", "load_tests", "audit"):
        _note(f"page {page}")
        AppTest.from_file(str(PAGES / f"{page}.py"), default_timeout=30).run()
        firsts, agains = [], []
        for _ in range(5):
            test = AppTest.from_file(str(PAGES / f"{page}.py"), default_timeout=30)
            _forget_readings()
            firsts.append(_timed_ms(test.run))
            time.sleep(1.6)
            agains.append(_timed_ms(test.run))
        yield Row(f"page {page}: first run", f"{max(firsts):.0f} ms", "≤ 1,500 ms")
        yield Row(f"page {page}: refresh", f"{max(agains):.0f} ms", "≤ 500 ms")
    yield Row("memory of a process that has shown every page", f"{_memory_mb():.0f} MB", "≤ 500 MB")


def _forget_readings() -> None:
    import streamlit as st

    st.cache_data.clear()


def _viewers(settings: Settings) -> Iterator[Row]:
    """What ten open pages Now cost PostgreSQL, each reading all that it shows every 2 s."""
    from dashboard import live_readings, sources
    from dashboard.figures.race import LANES

    def view(ends_at: float) -> None:
        while time.monotonic() < ends_at:
            began = time.monotonic()
            live_readings.in_flight()
            live_readings.finished_lately(300)
            live_readings.pace()
            live_readings.race(LANES)
            live_readings.faults_in_force()
            time.sleep(max(0.0, sources.TICK_SECONDS - (time.monotonic() - began)))

    if not settings.uses_embedded_postgres:
        return
    before, began = _postgres_cpu_seconds(settings), time.monotonic()
    viewers = [threading.Thread(target=view, args=(began + VIEWING_SECONDS,)) for _ in range(VIEWERS)]
    for number, viewer in enumerate(viewers):
        viewer.start()
        # People do not come all at the same moment.
        time.sleep(0.2 if number < VIEWERS - 1 else 0)
    for viewer in viewers:
        viewer.join()
    share = (_postgres_cpu_seconds(settings) - before) / (time.monotonic() - began)
    yield Row(f"PostgreSQL for {VIEWERS} open dashboards", f"{100 * share:.1f} % of a core", "< 15 %")


def _postgres_cpu_seconds(settings: Settings) -> float:
    from orchestrator.stack import postgres
    from orchestrator.stack.layout import Layout

    total = 0.0
    for process in postgres.servers_on(Layout.of(settings).postgres_data):
        times = process.cpu_times()
        total += times.user + times.system
    return total


@contextmanager
def _dashboard_of(conninfo: str) -> Iterator[None]:
    """Lets the pages, run in this process, read that database."""
    before = os.environ.get("DATABASE_READER_URL")
    os.environ["DATABASE_READER_URL"] = conninfo
    try:
        yield
    finally:
        if before is None:
            del os.environ["DATABASE_READER_URL"]
        else:
            os.environ["DATABASE_READER_URL"] = before


def _timed_ms(work: Query) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _spread(times_ms: list[float]) -> str:
    p95 = percentile(times_ms, 0.95)
    return f"p50 {statistics.median(times_ms):.1f}, p95 {p95:.1f}, max {max(times_ms):.1f} ms"


def _memory_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _note(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
