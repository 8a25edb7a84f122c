"""`python -m loadtest.bench.seed --orders N`: insert generated finished orders, to test at production size.

One transaction inserts one day, so an interrupted run leaves complete days. The orders have rows in every
table, agree with the provider ledger and pass the audit. Their ids start with `seed-`.
"""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from db import queries
from orchestrator.errors import SettingsError
from orchestrator.settings import Settings

_SQL = queries.load(str(Path(__file__).with_name("seed.sql")))

DAYS = 14
EVENTS_PER_ORDER = 12
RECENT_WITH_EVENTS = 2_000

Progress = Callable[[str], None]
Connection = psycopg.Connection[tuple[object, ...]]


def seed(url: str, orders: int, *, days: int = DAYS, now: datetime | None = None, progress: Progress) -> int:
    """Add `orders` finished orders over the last `days` complete days; return the number of their events.

    `now` is the current time by default.

    Disables the rollup trigger and rebuilds the rollups at the end, which is much faster. Other writers are
    blocked while a day is inserted. Raises psycopg.Error.
    """
    now = now or datetime.now(UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    events = 0
    with psycopg.connect(url, autocommit=True, application_name="seed") as connection:
        connection.execute("set synchronous_commit = off")
        # Newest day first, because the fault changes of a day get smaller ids than all existing ones.
        for days_ago in range(days):
            day = today - timedelta(days=days_ago + 1)
            count = orders * (days_ago + 1) // days - orders * days_ago // days
            started = time.monotonic()
            with connection.transaction():
                events += _insert_day(connection, day, count, f"seed-{now:%y%m%d%H%M%S}-{days_ago:02d}")
            progress(f"{day:%Y-%m-%d}: {count:,} orders in {time.monotonic() - started:.1f} s")
        connection.execute("select rebuild_latency_rollup()")
        # Sets the visibility map, which index-only scans need.
        connection.execute("vacuum (analyze)")
    return events


def seed_recent(url: str, *, finished: int, running: int) -> None:
    """Replace the recent orders of an earlier call with `finished` finished and `running` running orders.

    The finished orders have their outcomes between 50 minutes ago and 10 minutes from now.

    For benchmarks only: they have no payments, and only RECENT_WITH_EVENTS of them have events, so the audit
    reports violations. Raises psycopg.Error.
    """
    with psycopg.connect(url, autocommit=True, application_name="seed") as connection:
        with connection.transaction(), psycopg.ClientCursor(connection) as cursor:
            cursor.execute(_SQL["delete_recent"], {})
            cursor.execute(_SQL["delete_empty_rollups"], {})
            cursor.execute(_SQL["recent"], {"orders": finished})
            cursor.execute(_SQL["recent_events"], {"orders": RECENT_WITH_EVENTS})
            cursor.execute(_SQL["running"], {"orders": running})
            cursor.execute(_SQL["running_attempts"], {})
        # Otherwise an autovacuum would run during the measurement.
        connection.execute("vacuum (analyze) orders, events, latency_rollup")


def random_order_ids(url: str, count: int) -> list[str]:
    """Return at most `count` random ids of the orders that `seed` inserted."""
    with psycopg.connect(url) as connection, psycopg.ClientCursor(connection) as cursor:
        (total,) = connection.execute("select greatest(count(*), 1) from orders").fetchone() or (1,)
        cursor.execute(_SQL["random_order_ids"], {"orders": count, "of": total})
        return [str(order_id) for (order_id,) in cursor]


def _insert_day(connection: Connection, day: datetime, orders: int, prefix: str) -> int:
    parameters = {"day": day, "orders": orders, "prefix": prefix}
    # This takes a lock that also blocks other writers.
    connection.execute("alter table orders disable trigger orders_update_latency_rollup_on_insert")
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(_SQL["seeded"], parameters)
    connection.execute("analyze seeded")
    for name in ("orders", "payments", "shipments", "ledger", "packages", "parcels", "runs"):
        connection.execute(_SQL[name])
    connection.execute(_SQL["fault_changes"], {"day": day})
    events = connection.execute(_SQL["events"]).rowcount
    connection.execute("alter table orders enable trigger orders_update_latency_rollup_on_insert")
    return events


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.seed", description=__doc__)
    parser.add_argument(
        "--orders",
        type=int,
        required=True,
        help=f"number of orders; each has about {EVENTS_PER_ORDER} events",
    )
    parser.add_argument("--days", type=int, default=DAYS, help="number of past days")
    parser.add_argument("--url", help="database URL; by default DATABASE_URL of the settings")
    options = parser.parse_args()
    if options.orders < 1 or options.days < 1:
        parser.error("--orders and --days must be at least 1")
    started = time.monotonic()
    try:
        url = options.url or Settings.load().order_database_url
        events = seed(url, options.orders, days=options.days, progress=_print)
    except (SettingsError, psycopg.Error) as error:
        sys.stderr.write(f"Seeding failed: {str(error).strip().splitlines()[0]}\n")
        return 1
    _print(f"{options.orders:,} orders and {events:,} events in {time.monotonic() - started:.0f} s")
    return 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
