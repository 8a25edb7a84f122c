"""`python -m dashboard.bench [--orders N]`: every query and page at size, as a Markdown table.

Works on a database of its own, `orders_bench_N`, beside the books of the running stack (or the one of
DATABASE_URL's server): made and seeded when it is not there, kept for the next time. Exits with 3 when a
target is missed.
"""

import argparse
import sys
from collections.abc import Iterator

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dashboard.bench import pages, queries, server
from dashboard.bench.measures import Row
from dashboard.preload import preload
from db.read_only_database import ROLE, ReadOnlyDatabase
from loadtest.bench.seed import seed, seed_now, some_ids
from orchestrator.embedded import Stack, postgres
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.migrations import migrate
from orchestrator.errors import OrderSystemError, StackError
from orchestrator.settings import Settings

ORDERS = 1_000_000
FINISHED_LATELY = 20_000
"""In the last hour: more than five a second."""

IN_FLIGHT = 300
LOOKED_AT = 500
LIMIT_BREACHED = 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dashboard.bench", description=__doc__)
    parser.add_argument("--orders", type=int, default=ORDERS)
    options = parser.parse_args()
    missed = []
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
                if row.is_kept is False:
                    missed.append(row.measure)
        finally:
            if is_ours:
                stack.down()
    except (OrderSystemError, psycopg.Error) as error:
        sys.stderr.write(f"The bench stopped: {error}\n")
        return 1
    for measure in missed:
        _note(f"missed its target: {measure}")
    return LIMIT_BREACHED if missed else 0


def _measures(settings: Settings, url: str) -> Iterator[Row]:
    reader_url = make_conninfo(url, user=ROLE) if settings.uses_embedded_postgres else url
    watched = (lambda: _postgres_cpu_seconds(settings)) if settings.uses_embedded_postgres else None
    ids = some_ids(url, LOOKED_AT)
    reader = ReadOnlyDatabase(reader_url)
    # As in the dashboard: no reading waits until all that was ever imported has been gone through once more.
    preload()
    try:
        yield from queries.rows(reader, ids, _note)
        with server.serving(settings, url, reader_url, settings.home) as served:
            yield from pages.runs_and_refreshes(served, reader, ids, _note)
            yield pages.exported(served, reader)
            yield from pages.first_paints(served, reader, ids, _note)
            _note("ten viewers")
            yield from pages.ten_viewers(served, ids, watched)
    finally:
        reader.close()


def _database(settings: Settings, orders: int) -> str:
    """The URL of the seeded database. Raises StackError when the migrations cannot be applied."""
    name = f"orders_bench_{orders}"
    url = _url_of_another(settings.order_database_url, name)
    with psycopg.connect(settings.order_database_url, autocommit=True) as connection:
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


def _url_of_another(order_database_url: str, database: str) -> str:
    """The same server's URL of another database."""
    head, _, rest = order_database_url.partition("://")
    place, slash, tail = rest.partition("/")
    _, question, query = tail.partition("?")
    return f"{head}://{place}{slash}{database}{question}{query}"


def _postgres_cpu_seconds(settings: Settings) -> float:
    # The server's own time includes that of the sessions that have ended.
    times = [process.cpu_times() for process in postgres.servers_on(Layout.of(settings).postgres_data)]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _note(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
