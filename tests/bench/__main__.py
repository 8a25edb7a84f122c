"""`python -m tests.bench [--orders N]`: measure every query and page over N orders.

Prints a Markdown table and exits with 3 when a target is missed. Uses its own database `orders_bench_N` on
the server of the order database, which is created and seeded once and kept for later runs.
"""

import argparse
import sys
from collections.abc import Iterator

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dashboard.preload import preload
from db.read_only_database import ROLE, ReadOnlyDatabase
from loadtest.bench.harness import TABLE_HEADER, Measurement, database_url
from loadtest.bench.seed import random_order_ids, seed, seed_recent
from orchestrator.embedded import Stack, postgres
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.migrations import migrate
from orchestrator.errors import ExitCode, OrderSystemError, StackError
from orchestrator.settings import Settings
from tests.bench import pages, playback, queries, server

ORDERS = 1_000_000
RECENT_ORDERS = 20_000
"""Finished in the last hour: more than five per second."""

RUNNING_ORDERS = 300
SAMPLED_ORDERS = 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--orders", type=int, default=ORDERS)
    options = parser.parse_args()
    try:
        missed = run(Settings.load(), options.orders)
    except (OrderSystemError, psycopg.Error) as error:
        print_progress(f"The benchmark stopped: {error}")
        return ExitCode.CRASHED
    for measure in missed:
        print_progress(f"missed its target: {measure}")
    return ExitCode.LIMIT_BREACHED if missed else ExitCode.PASSED


def run(settings: Settings, orders: int) -> list[str]:
    """Print the table and return the measures that missed their targets."""
    stack = Stack(settings)
    was_started = settings.uses_embedded_postgres and not stack.is_up()
    if was_started:
        stack.up()
    missed = []
    try:
        url = seeded_database(settings, orders)
        seed_recent(url, finished=RECENT_ORDERS, running=RUNNING_ORDERS)
        print(TABLE_HEADER, flush=True)  # noqa: T201
        for measurement in measurements(settings, url):
            print(measurement, flush=True)  # noqa: T201
            if measurement.is_met is False:
                missed.append(measurement.measure)
    finally:
        if was_started:
            stack.down()
    return missed


def measurements(settings: Settings, url: str) -> Iterator[Measurement]:
    is_embedded = settings.uses_embedded_postgres
    reader_url = make_conninfo(url, user=ROLE) if is_embedded else url
    order_ids = random_order_ids(url, SAMPLED_ORDERS)
    reader = ReadOnlyDatabase(reader_url)
    # As in the dashboard: freezes the imported objects, so that garbage collection does not delay a query.
    preload()
    try:
        yield from queries.measure(reader, order_ids, print_progress)
        with server.running_dashboard(settings, url, reader_url, settings.home) as dashboard:
            yield from pages.first_runs_and_refreshes(dashboard, reader, order_ids, print_progress)
            yield pages.csv_export(dashboard, reader)
            yield from pages.first_paints(dashboard, reader, order_ids, print_progress)
            print_progress("ten viewers")
            cpu_seconds = (lambda: _postgres_cpu_seconds(settings)) if is_embedded else None
            yield from pages.ten_viewers(dashboard, order_ids, cpu_seconds)
        yield from playback.frame_rates()
    finally:
        reader.close()


def seeded_database(settings: Settings, orders: int) -> str:
    """Return the URL of the migrated and seeded database. Raises StackError."""
    name = f"orders_bench_{orders}"
    url = database_url(settings, name)
    with psycopg.connect(settings.order_database_url, autocommit=True) as connection:
        row = connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone()
        if row is None:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    migrate(settings.model_copy(update={"database_url": url}))
    with psycopg.connect(url) as connection:
        (count,) = connection.execute("select count(*) from orders").fetchone() or (0,)
    if count == 0:
        print_progress(f"seeding {orders:,} orders, once")
        seed(url, orders, progress=print_progress)
    elif count < orders:
        raise StackError(f"The database {name} is only partly seeded; drop it and run this again.")
    return url


def _postgres_cpu_seconds(settings: Settings) -> float:
    # The children_* times of the server include ended sessions.
    times = [process.cpu_times() for process in postgres.servers_on(Layout(settings).postgres_data)]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def print_progress(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
