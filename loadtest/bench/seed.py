"""`python -m loadtest.bench.seed --orders N`: invents a history of orders, to see how everything does at size.

Made in the database by set-based SQL, day by day: one transaction a day, so an interrupted seeding leaves
whole days. The invented orders look like finished ones of the real system in every table, balance with the
provider's ledger and pass the audit of our books; their ids begin with `seed-`.
"""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql

from db import queries
from orchestrator.errors import SettingsError
from orchestrator.settings import Settings

_SQL = queries.load(str(Path(__file__).with_name("seed.sql")))

DAYS = 14
EVENTS_AN_ORDER = 12

Progress = Callable[[str], None]
Connection = psycopg.Connection[tuple[object, ...]]


def seed(url: str, orders: int, *, days: int = DAYS, progress: Progress) -> int:
    """Adds `orders` finished orders over the last `days` whole days; returns how many events they have.

    Writes the rollups at the end and as a whole, since a trigger a row would take much longer. Other writers
    wait during each day. Raises psycopg.Error when the database refuses.
    """
    now = datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    events = 0
    with psycopg.connect(url, autocommit=True, application_name="seed") as connection:
        connection.execute("set synchronous_commit = off")
        # From the newest day to the oldest: each day's fault changes are numbered before those there are.
        for number in range(days):
            day = today - timedelta(days=number + 1)
            share = orders * (number + 1) // days - orders * number // days
            began = time.monotonic()
            with connection.transaction():
                _make_partition(connection, day)
                events += _fill(connection, day, share, f"seed-{now:%y%m%d%H%M%S}-{number:02d}")
            progress(f"{day:%Y-%m-%d}: {share:,} orders in {time.monotonic() - began:.1f} s")
        connection.execute("select rebuild_latency_rollup()")
        # Readings from an index alone need to know which pages all can see.
        connection.execute("vacuum (analyze)")
    return events


def seed_now(url: str, *, finished: int, running: int) -> None:
    """Makes the last hour busy: `finished` outcomes in it and in the minutes to come, and `running` orders.

    In place of those that an earlier call has made. For measuring alone: they have no events or payments, so
    the audit would object. Raises psycopg.Error when the database refuses.
    """
    with psycopg.connect(url, autocommit=True, application_name="seed") as connection:
        with connection.transaction(), psycopg.ClientCursor(connection) as cursor:
            cursor.execute(_SQL["forget_lately"], {})
            cursor.execute(_SQL["forget_emptied"], {})
            cursor.execute(_SQL["lately"], {"orders": finished})
            cursor.execute(_SQL["flying"], {"orders": running})
            cursor.execute(_SQL["flying_attempts"], {})
        # Not by an autovacuum in the midst of what is measured.
        connection.execute("vacuum (analyze) orders, latency_rollup")


def some_ids(url: str, orders: int) -> list[str]:
    """Ids of at most so many invented orders, drawn by chance from their whole history."""
    with psycopg.connect(url) as connection, psycopg.ClientCursor(connection) as cursor:
        (whole,) = connection.execute("select greatest(count(*), 1) from orders").fetchone() or (1,)
        cursor.execute(_SQL["some_ids"], {"orders": orders, "of": whole})
        return [str(order_id) for (order_id,) in cursor]


def _fill(connection: Connection, day: datetime, orders: int, prefix: str) -> int:
    parameters = {"day": day, "orders": orders, "prefix": prefix}
    # The rollups are made at the end. This also keeps other writers out, whose outcomes they would miss.
    connection.execute("alter table orders disable trigger orders_update_latency_rollup_on_insert")
    with psycopg.ClientCursor(connection) as drawing:
        drawing.execute(_SQL["seeded"], parameters)
    connection.execute("analyze seeded")
    for name in ("orders", "payments", "shipments", "ledger", "packages", "parcels", "runs"):
        connection.execute(_SQL[name])
    connection.execute(_SQL["fault_changes"], {"day": day})
    events = connection.execute(_SQL["events"]).rowcount
    connection.execute("alter table orders enable trigger orders_update_latency_rollup_on_insert")
    return events


def _make_partition(connection: Connection, day: datetime) -> None:
    """Gives the events of a past day a partition, unless that time has one already."""
    following = day + timedelta(days=1)
    name = f"events_{day:%Y%m%d}"
    there = connection.execute(
        "select exists (select from event_partitions() where from_at < %s and coalesce(to_at > %s, true))",
        (following, day),
    ).fetchone()
    if there == (True,):
        return
    connection.execute(
        sql.SQL("create table {} partition of events for values from ({}) to ({})").format(
            sql.Identifier(name), sql.Literal(day.isoformat()), sql.Literal(following.isoformat())
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.seed", description=__doc__)
    parser.add_argument("--orders", type=int, required=True, help=f"each has about {EVENTS_AN_ORDER} events")
    parser.add_argument("--days", type=int, default=DAYS, help="over how many past days")
    parser.add_argument("--url", help="the database; by default that of the settings")
    options = parser.parse_args()
    if options.orders < 1 or options.days < 1:
        parser.error("--orders and --days must be at least 1")
    began = time.monotonic()
    try:
        url = options.url or Settings.load().order_database_url
        events = seed(url, options.orders, days=options.days, progress=_say)
    except (SettingsError, psycopg.Error) as error:
        sys.stderr.write(f"The seeding stopped: {str(error).strip().splitlines()[0]}\n")
        return 1
    _say(f"{options.orders:,} orders and {events:,} events in {time.monotonic() - began:.0f} s")
    return 0


def _say(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
