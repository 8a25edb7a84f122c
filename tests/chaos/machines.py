"""`python -m tests.chaos.machines [NAME ...]`: cut the network of components that run on machines of their
own.

PostgreSQL, Temporal, two order workers, two shipping workers and the API each have a network namespace; the
client is on the API's machine. While orders run under the `assignment` faults, one machine loses its network
for some seconds. Its packets are dropped silently: no connection is closed.

Exits 1 if there is a problem; problems are on stderr. Exits 2 without root or a required program.
"""

import argparse
import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import psycopg

from db.database import Database
from orchestrator.embedded import Stack, postgres, temporal
from orchestrator.embedded.health_checks import HealthChecks
from orchestrator.embedded.layout import PROJECT_ROOT, Layout, stack_environment
from orchestrator.embedded.migrations import migrate
from orchestrator.settings import Settings
from orchestrator.startup.servers import run_check
from orchestrator.temporal import search_attributes
from orchestrator.temporal.client import connect
from tests.chaos.crashes import ORDERS, TABLE_HEAD, Crash, Disturb, Site, print_result, run_crash
from tests.chaos.network import SUBNET, Network, missing_requirements
from tests.directories import temporary_directory

CUT_SECONDS = 5.0
LONG_CUT_SECONDS = 30.0
STARTUP_SECONDS = 60.0
BACK_SECONDS = 60.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.1

POSTGRES_PORT = 5432
TEMPORAL_PORT = 7233
API_PORT = 8000

WORKERS = {
    "order-worker-1": "order",
    "order-worker-2": "order",
    "shipping-worker-1": "shipping",
    "shipping-worker-2": "shipping",
}

_INSIDE = "--inside"
"""Set if this process has its own network namespace."""


@dataclass(frozen=True)
class Cut:
    """A network cut of one machine. With `all_in_time`, no order may be late.

    There are enough `orders` to continue after the cut.
    """

    name: str
    title: str
    machine: str
    seconds: float
    all_in_time: bool = True
    orders: int = ORDERS


CUTS = (
    Cut("order-worker", "an order worker's network, 5 s", "order-worker-1", CUT_SECONDS),
    Cut("shipping-worker", "a shipping worker's network, 5 s", "shipping-worker-1", CUT_SECONDS),
    Cut(
        "order-worker-long", "an order worker's network, 30 s", "order-worker-1", LONG_CUT_SECONDS, orders=420
    ),
    Cut("postgres", "PostgreSQL's network, 5 s", "postgres", CUT_SECONDS, all_in_time=False),
    Cut("temporal", "Temporal's network, 5 s", "temporal", CUT_SECONDS, all_in_time=False),
)


def cut_named(name: str) -> Cut:
    """Raises KeyError for an unknown name."""
    return {cut.name: cut for cut in CUTS}[name]


class Machines:
    """The running components, each on its machine. `settings` contains their addresses."""

    def __init__(self, home: Path, network: Network) -> None:
        self._home = home
        self._network = network
        self._machines = {name: network.add(name) for name in ("postgres", "temporal", *WORKERS)} | {
            "api": network.add_own_namespace("api")
        }
        password = secrets.token_urlsafe(16)
        self.settings = Settings().isolated(
            home,
            database_url=_url("orders", password, self._machines["postgres"].address),
            temporal_address=f"{self._machines['temporal'].address}:{TEMPORAL_PORT}",
            api_port=API_PORT,
        )
        self._password = password
        self._processes: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []

    def start(self) -> None:
        """Start all components and wait until they are healthy."""
        (self._home / "logs").mkdir()
        self._start_postgres()
        self._start_temporal()
        self._until(lambda checks: checks.postgres_responds() and checks.temporal_responds(), "the servers")
        migrate(self.settings)
        run_check(self._register_search_attributes())
        environment = stack_environment(self.settings)
        began_at = datetime.now(UTC)
        for name, kind in WORKERS.items():
            self._start(name, (*_PROCESS, "worker", kind, "--name", name), environment)
        self._start("api", (*_PROCESS, "api"), environment)

        def all_healthy(checks: HealthChecks) -> bool:
            queues = {"order": self.settings.order_task_queue, "shipping": self.settings.shipping_task_queue}
            return checks.http_responds(API_PORT, "/health") and all(
                checks.worker_polls(queues[kind], name, began_at) for name, kind in WORKERS.items()
            )

        self._until(all_healthy, "the workers and the API")

    async def _register_search_attributes(self) -> None:
        await search_attributes.register(await connect(self.settings, identity="machines"))

    def stop(self) -> None:
        """Stop all components in reverse order."""
        for process, number in reversed(self._processes):
            process.send_signal(number)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def disturb(self, cut: Cut) -> Disturb:
        """Return a function that cuts the network, restores it, and waits until the component works again."""

        async def disturb(_site: Site) -> list[str]:
            machine = self._machines[cut.machine]
            back_at = time.monotonic() + cut.seconds
            self._network.cut(machine)
            try:
                await asyncio.sleep(back_at - time.monotonic())
            finally:
                self._network.heal(machine)
            if cut.machine in WORKERS:
                await self._until_worker_writes(cut.machine, datetime.now(UTC))
            return []

        return disturb

    async def _until_worker_writes(self, worker: str, since: datetime) -> None:
        """Wait until the worker has recorded an event since then."""
        async with Database(self.settings.order_database_url, application_name="chaos") as database:
            not_after = time.monotonic() + BACK_SECONDS
            while not await database.fetch_all(RECORDED, {"worker": worker, "since": since}):
                if time.monotonic() > not_after:
                    raise RuntimeError(f"{worker} has recorded no event since its network was restored")
                await asyncio.sleep(POLL_SECONDS)

    def _start_postgres(self) -> None:
        machine = self._machines["postgres"]
        layout = Layout(Settings(orders_home=self._home, database_url=None))
        layout.sockets.mkdir()
        postgres.prepare(layout, lambda _: None)
        with (layout.postgres_data / "pg_hba.conf").open("a") as access:
            access.write(f"host all all {SUBNET} scram-sha-256\n")
        account = postgres.account(layout)
        assert account is not None, "root"
        # The last value of a repeated option applies.
        command = (*postgres.server_command(layout), "-c", f"listen_addresses={machine.address}")
        self._processes.append(
            (
                machine.start(
                    command,
                    log=self._log("postgres"),
                    directory=layout.postgres_data,
                    user=account.uid,
                    group=account.gid,
                    death_signal=postgres.DEATH_SIGNAL,
                ),
                postgres.STOP_SIGNAL,
            )
        )
        administrator = f"postgresql://postgres@/postgres?host={layout.sockets}"
        not_after = time.monotonic() + STARTUP_SECONDS
        while True:
            try:
                with psycopg.connect(administrator, autocommit=True) as connection:
                    connection.execute(f"create role orders login createrole password '{self._password}'")
                    connection.execute("create database orders owner orders")
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > not_after:
                    raise RuntimeError(f"PostgreSQL did not start: {error}") from error
                time.sleep(POLL_SECONDS)

    def _start_temporal(self) -> None:
        settings = Settings(orders_home=self._home, temporal_address=None, temporal_port=TEMPORAL_PORT)
        self._start(
            "temporal",
            # On all addresses: the services of the server call each other on the loopback address.
            (*temporal.server_command(settings), "--ip", "0.0.0.0"),
            {**os.environ, **temporal.ENVIRONMENT},
            self._home,
        )

    def _start(
        self, name: str, command: tuple[str, ...], environment: dict[str, str], directory: Path = PROJECT_ROOT
    ) -> None:
        process = self._machines[name].start(
            command, log=self._log(name), directory=directory, environment=environment
        )
        self._processes.append((process, signal.SIGTERM))

    def _log(self, name: str) -> Path:
        return self._home / "logs" / f"{name}.log"

    def _until(self, condition: Callable[[HealthChecks], bool], what: str) -> None:
        not_after = time.monotonic() + STARTUP_SECONDS
        with HealthChecks(self.settings) as checks:
            while not condition(checks):
                ended = [process for process, _ in self._processes if process.poll() is not None]
                if ended or time.monotonic() > not_after:
                    logs = "\n".join(file.read_text()[-2000:] for file in (self._home / "logs").iterdir())
                    raise RuntimeError(f"{what} did not become healthy:\n{logs}")
                time.sleep(POLL_SECONDS)


_PROCESS = (sys.executable, "-m", "orchestrator.processes")

RECORDED = "select 1 from events where worker = %(worker)s and at > %(since)s limit 1"


def _url(user: str, password: str, host: str) -> str:
    return f"postgresql://{user}:{quote(password)}@{host}:{POSTGRES_PORT}/orders"


@contextmanager
def running_machines() -> Iterator[Machines]:
    """Start all machines. They end with the block. This process must have its own network namespace."""
    with ExitStack() as cleanup:
        home = cleanup.enter_context(temporary_directory("orders-machines-"))
        machines = Machines(home, cleanup.enter_context(Network()))
        cleanup.callback(machines.stop)
        machines.start()
        yield machines


async def run(machines: Machines, cuts: list[Cut]) -> bool:
    """Print a row for each cut and return whether there was no problem."""
    # This stack is not started; it only carries the settings.
    site = Site(Stack(machines.settings), machines.settings)
    passed = True
    print(TABLE_HEAD, flush=True)  # noqa: T201
    for cut in cuts:
        crash = Crash(cut.name, cut.title, machines.disturb(cut), all_in_time=cut.all_in_time)
        passed &= print_result(await run_crash(site, crash, orders=cut.orders))
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.machines", description=__doc__)
    names = [cut.name for cut in CUTS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}; default: all")
    parser.add_argument("--orders", type=int, metavar="N", help="number of orders for each cut")
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    selected = options.names or names
    if unknown := [name for name in selected if name not in names]:
        parser.error(f"unknown cut {unknown[0]!r}; known: {', '.join(names)}")
    if missing := missing_requirements():
        parser.error(f"network namespaces need {' and '.join(missing)}")
    if not options.inside:
        # Run this program again in its own network namespace.
        command = (sys.executable, "-m", "tests.chaos.machines", _INSIDE, *sys.argv[1:])
        os.execvp("unshare", ["unshare", "--net", *command])
    # SIGTERM must stop the machines too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cuts = [cut_named(name) for name in selected]
    if options.orders is not None:
        cuts = [replace(cut, orders=options.orders) for cut in cuts]
    with running_machines() as machines:
        passed = asyncio.run(run(machines, cuts))
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
