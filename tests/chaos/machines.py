"""`python -m tests.chaos.machines [NAME ...]`: every part on a machine of its own, and cables are pulled.

PostgreSQL, Temporal, two order workers, two shipping workers and the API each have a network namespace; the
customers are on the API's machine. While orders arrive under the `assignment` faults, one machine is cut off
for some seconds, silently: nobody sees the end of a connection. Then its cable is put back.

Exits 0 when all is as promised, 1 when not, and then says on stderr what is not; 2 without root, or without
the programs it needs.
"""

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
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
from tests.chaos.crashes import HEADING, ORDERS, Crash, Site, Strike, run_crash, table_row
from tests.chaos.network import SUBNET, Network, what_is_missing

CUT_SECONDS = 5.0
LONG_CUT_SECONDS = 30.0
STARTUP_SECONDS = 60.0
BACK_SECONDS = 60.0
STOP_SECONDS = 10.0
LOOK_AGAIN_SECONDS = 0.1

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
"""Says that this process has its own network namespace already."""


@dataclass(frozen=True)
class Cut:
    """A machine that is cut off, and for how long. `promises_limit`: it makes no order late.

    `orders` are so many that they still arrive when the machine is back.
    """

    name: str
    title: str
    machine: str
    seconds: float
    promises_limit: bool = True
    orders: int = ORDERS


CUTS = (
    Cut("order-worker", "an order worker's network, 5 s", "order-worker-1", CUT_SECONDS),
    Cut("shipping-worker", "a shipping worker's network, 5 s", "shipping-worker-1", CUT_SECONDS),
    Cut(
        "order-worker-long", "an order worker's network, 30 s", "order-worker-1", LONG_CUT_SECONDS, orders=420
    ),
    Cut("postgres", "PostgreSQL's network, 5 s", "postgres", CUT_SECONDS, promises_limit=False),
    Cut("temporal", "Temporal's network, 5 s", "temporal", CUT_SECONDS, promises_limit=False),
)


def named(name: str) -> Cut:
    """Raises KeyError for a name that no cut has."""
    return {cut.name: cut for cut in CUTS}[name]


class Machines:
    """The running parts, each on its machine. `settings` lead to them."""

    def __init__(self, home: Path, network: Network) -> None:
        self._home = home
        self._network = network
        self._machines = {name: network.add(name) for name in ("postgres", "temporal", *WORKERS)} | {
            "api": network.add_ourselves("api")
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
        """Returns when every part is well."""
        (self._home / "logs").mkdir()
        self._start_postgres()
        self._start_temporal()
        self._until(lambda checks: checks.postgres_responds() and checks.temporal_responds(), "the servers")
        migrate(self.settings)
        environment = stack_environment(self.settings)
        began_at = datetime.now(UTC)
        for name, kind in WORKERS.items():
            self._start(name, (*_PROCESS, "worker", kind, "--name", name), environment)
        self._start("api", (*_PROCESS, "api"), environment)

        def all_well(checks: HealthChecks) -> bool:
            queues = {"order": self.settings.order_task_queue, "shipping": self.settings.shipping_task_queue}
            return checks.http_responds(API_PORT, "/health") and all(
                checks.worker_polls(queues[kind], name, began_at) for name, kind in WORKERS.items()
            )

        self._until(all_well, "the workers and the API")

    def stop(self) -> None:
        """Ends what was started, the last first."""
        for process, number in reversed(self._processes):
            process.send_signal(number)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def strike(self, cut: Cut) -> Strike:
        """Pulls the cable, puts it back, and returns when the machine is of use again."""

        async def strike(_site: Site) -> list[str]:
            machine = self._machines[cut.machine]
            back_at = time.monotonic() + cut.seconds
            self._network.cut(machine)
            try:
                await asyncio.sleep(back_at - time.monotonic())
            finally:
                self._network.heal(machine)
            if cut.machine in WORKERS:
                await self._until_it_writes(cut.machine, datetime.now(UTC))
            return []

        return strike

    async def _until_it_writes(self, worker: str, since: datetime) -> None:
        """Until the books hold something that this worker has written since then."""
        async with Database(self.settings.order_database_url, application_name="chaos") as database:
            not_after = time.monotonic() + BACK_SECONDS
            while not await database.fetch_all(WRITTEN, {"worker": worker, "since": since}):
                if time.monotonic() > not_after:
                    raise RuntimeError(f"{worker} has written nothing since its network is back")
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def _start_postgres(self) -> None:
        machine = self._machines["postgres"]
        layout = Layout.of(Settings(orders_home=self._home, database_url=None))
        layout.sockets.mkdir()
        postgres.prepare(layout)
        with (layout.postgres_data / "pg_hba.conf").open("a") as access:
            access.write(f"host all all {SUBNET} scram-sha-256\n")
        account = postgres.account(layout)
        assert account is not None, "root"
        # Of an option that is given twice the last one counts.
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
                time.sleep(LOOK_AGAIN_SECONDS)

    def _start_temporal(self) -> None:
        settings = Settings(orders_home=self._home, temporal_address=None, temporal_port=TEMPORAL_PORT)
        self._start(
            "temporal",
            # On every address of its machine: its own services call each other on the loopback one.
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

    def _until(self, is_so: Callable[[HealthChecks], bool], what: str) -> None:
        not_after = time.monotonic() + STARTUP_SECONDS
        with HealthChecks(self.settings) as checks:
            while not is_so(checks):
                ended = [process for process, _ in self._processes if process.poll() is not None]
                if ended or time.monotonic() > not_after:
                    logs = "\n".join(file.read_text()[-2000:] for file in (self._home / "logs").iterdir())
                    raise RuntimeError(f"{what} did not become well:\n{logs}")
                time.sleep(LOOK_AGAIN_SECONDS)


_PROCESS = (sys.executable, "-m", "orchestrator.processes")

WRITTEN = "select 1 from events where worker = %(worker)s and at > %(since)s limit 1"


def _url(user: str, password: str, host: str) -> str:
    return f"postgresql://{user}:{quote(password)}@{host}:{POSTGRES_PORT}/orders"


@contextmanager
def machines_of_our_own() -> Iterator[Machines]:
    """All machines running, gone afterwards. This process must have a network namespace of its own."""
    with ExitStack() as last_things:
        home = Path(tempfile.mkdtemp(prefix="orders-machines-")).resolve()
        last_things.callback(shutil.rmtree, home, ignore_errors=True)
        machines = Machines(home, last_things.enter_context(Network()))
        last_things.callback(machines.stop)
        machines.start()
        yield machines


async def run(machines: Machines, cuts: list[Cut]) -> bool:
    """Prints a row for each cut; returns whether everything was as promised."""
    # Nothing here is started or stopped through it: the parts are servers elsewhere.
    site = Site(Stack(machines.settings), machines.settings)
    as_promised = True
    print(HEADING, flush=True)  # noqa: T201
    for cut in cuts:
        crash = Crash(cut.name, cut.title, machines.strike(cut), promises_limit=cut.promises_limit)
        aftermath = await run_crash(site, crash, orders=cut.orders)
        print(table_row(aftermath), flush=True)  # noqa: T201
        for promise in aftermath.broken_promises:
            print(f"{cut.name}: {promise}", file=sys.stderr, flush=True)  # noqa: T201
        as_promised = as_promised and not aftermath.broken_promises
    return as_promised


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.machines", description=__doc__)
    names = [cut.name for cut in CUTS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}; default: all")
    parser.add_argument(
        "--orders", type=int, metavar="N", help="so many for each; by default what each needs"
    )
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    wanted = options.names or names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"unknown cut {unknown[0]!r}; known: {', '.join(names)}")
    if missing := what_is_missing():
        parser.error(f"machines of their own need {' and '.join(missing)}")
    if not options.inside:
        # The same process, in a network of its own: nothing of it is seen from where we were called.
        ourselves = (sys.executable, "-m", "tests.chaos.machines", _INSIDE, *sys.argv[1:])
        os.execvp("unshare", ["unshare", "--net", *ourselves])
    # Whoever ends us wants the machines gone too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cuts = [named(name) for name in wanted]
    if options.orders is not None:
        cuts = [replace(cut, orders=options.orders) for cut in cuts]
    with machines_of_our_own() as machines:
        as_promised = asyncio.run(run(machines, cuts))
    sys.exit(0 if as_promised else 1)


if __name__ == "__main__":
    main()
