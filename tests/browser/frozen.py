"""A dashboard over generated orders at a fixed time, whose pages always show the same.

`python -m tests.browser.frozen` serves it, with the settings of the environment.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql

from dashboard import __main__ as dashboard
from dashboard.data import clients, local_stack
from dashboard.view_models.component_health import LocalProcess
from loadtest.bench.seed import seed, seed_recent
from orchestrator.security.key_hashing import Role
from orchestrator.settings import LOOPBACK
from tests.bench.server import running_process
from tests.dashboard.keyed_api import keyed_api
from tests.directories import temporary_directory
from tests.ports import free_port_base
from tests.servers import postgres_server

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
ORDERS, DAYS, RECENT, IN_FLIGHT = 3_000, 2, 600, 21
ORDER, RUN, BASELINE = (f"seed-{NOW:%y%m%d%H%M%S}-00-{each}" for each in ("7", "run1", "run2"))
PROCESSES = [
    LocalProcess(name, "running", NOW - timedelta(minutes=minutes), restarts)
    for name, minutes, restarts in (
        ("api", 42, 0), ("postgres", 42, 0), ("temporal", 42, 0), ("order-worker-1", 3, 2),
        ("order-worker-2", 42, 0), ("shipping-worker-1", 42, 0), ("dashboard", 42, 0),
    )
]  # fmt: skip

# PostgreSQL looks for functions in pg_catalog last if the search path names it last.
_FREEZE = """
create schema if not exists frozen;
grant usage on schema frozen to public;
create or replace function frozen.now() returns timestamptz language sql stable return timestamptz {now};
create or replace function frozen.clock_timestamp() returns timestamptz language sql stable
return frozen.now();
alter database {database} set search_path = frozen, pg_catalog, public
"""

# `seed_recent` gives orders in flight hours; these have the 15 s of a real order, and used part of them.
_AGE_ORDERS_IN_FLIGHT = """
with aged as (
    select order_id, now() - interval '0.6 s' * row_number() over (order by order_id) as at
    from orders where finished_at is null
)
update orders o set requested_at = at, accepted_at = at, last_event_at = at,
    deadline_at = at + interval '15 s', limit_at = at + interval '15 s',
    review_until = at + interval '9 s'
from aged where aged.order_id = o.order_id
"""

# Their steps, evenly spaced. The page Stage shows an order without events as one of an unknown step.
_ADD_STEPS_OF_ORDERS_IN_FLIGHT = """
insert into events (order_id, at, kind, state, step, attempt, outcome, worker)
select order_id, accepted_at + (now() - accepted_at) * number / 5, kind, step.state::order_state, step.name,
    1, case kind when 'attempt' then 'ok'::attempt_outcome end, 'seed'
from orders cross join (values
    (1, 'attempt', 'received', 'receive'), (2, 'attempt', 'validated', 'validate'),
    (3, 'state', 'approved', 'review'), (4, 'attempt', 'charged', 'charge')
) step (number, kind, state, name)
where finished_at is null and (orders.state = 'charged' or number <= 2)
"""


@dataclass
class FrozenDashboard:
    """A running dashboard. `database_url` has the rights of the owner."""

    port: int
    database_url: str
    environment: dict[str, str]
    log: Path
    _running: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        health = f"{self.url}/_stcore/health"
        self._running.enter_context(
            running_process(["tests.browser.frozen"], self.environment, health, self.log)
        )

    def stop(self) -> None:
        self._running.close()


@contextmanager
def frozen_dashboard() -> Iterator[FrozenDashboard]:
    """Run the dashboard, PostgreSQL with the generated orders, and a fake API that allows everything."""
    api_port = free_port_base()
    port = api_port + 1
    with (
        temporary_directory("orders-frozen-") as home,
        postgres_server() as server,
        server.fresh_database() as url,
        keyed_api(api_port, keyless_role=Role.CHAOS),
    ):
        fill(url)
        environment = os.environ | {
            "ORDERS_HOME": str(home),
            "DATABASE_URL": url,
            "BIND_ADDRESS": LOOPBACK,
            "API_URL": f"http://{LOOPBACK}:{api_port}",
            "DASHBOARD_PORT": str(port),
        }
        frozen = FrozenDashboard(port, url, environment, home / "dashboard.log")
        frozen.start()
        try:
            yield frozen
        finally:
            frozen.stop()


def fill(url: str) -> None:
    """Insert orders before NOW and stop the clock of the database there."""
    seed(url, ORDERS, days=DAYS, now=NOW, progress=lambda _: None)
    # The newest of these orders finish 10 minutes after the clock of the database.
    stop_clock(url, NOW - timedelta(minutes=10))
    seed_recent(url, finished=RECENT, running=IN_FLIGHT)
    stop_clock(url, NOW)
    with psycopg.connect(url) as connection:
        connection.execute(_AGE_ORDERS_IN_FLIGHT)
        connection.execute(_ADD_STEPS_OF_ORDERS_IN_FLIGHT)


def stop_clock(url: str, at: datetime) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        names = {"now": sql.Literal(at), "database": sql.Identifier(connection.info.dbname)}
        connection.execute(sql.SQL(_FREEZE).format(**names))


def main() -> int:
    clients.now = lambda: NOW
    local_stack.processes = lambda: PROCESSES
    return dashboard.main()


if __name__ == "__main__":
    sys.exit(main())
