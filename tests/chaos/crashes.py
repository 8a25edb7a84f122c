"""Crashes of real processes under load.

A client starts orders through the REST API at an even rate under the `assignment` faults, and retries starts
that were rejected or got no response. When a third of the orders is acknowledged, processes are killed or
stopped. In the end every acknowledged order must have its outcome, and the audit must find no violation.
"""

import asyncio
import math
import os
import random
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import psutil
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database, Row
from db.domain import ExecutionMode
from orchestrator.audit import AuditReport, audit
from orchestrator.embedded import Stack
from orchestrator.embedded.process_table import wait_until_ended
from orchestrator.messages.ids import order_workflow_id
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from tests.async_load import LoadReport, send_orders, wait_for_outcomes
from tests.ports import free_port_base
from tests.stacks import temporary_home

ORDERS = 150
RATE = 7.0
"""Orders per second."""

RETRY_SECONDS = 90.0
"""How long the client retries a start."""

DRAIN_SECONDS = 90.0
"""An order without an outcome after this time counts as lost."""

EXIT_SECONDS = 5.0
STOP_SECONDS = 3.0
"""Time limit for a worker to exit after SIGTERM."""

BETWEEN_STOPS_SECONDS = 2.0
WORKERS_STOP_SECONDS = 2.0
LONG_STOP_SECONDS = 20.0
TERMINATED_SHARE = 3
"""The operator terminates one of this many orders."""

TERMINATED_WITHIN_SECONDS = 4.0
MAX_LISTED_LATE = 5
"""Late orders whose events are printed."""

FAULTS_ATTEMPTS = 10
VISIBLE_SECONDS = 60.0
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Site:
    """The stack under test."""

    stack: Stack
    settings: Settings

    def names(self, *kinds: str) -> list[str]:
        return [component.name for component in self.stack.components() if component.name.startswith(kinds)]

    def last_exit(self, name: str) -> str:
        """Return the exit status of a component that was not stopped by the supervisor, from its log."""
        log = (self.settings.home / "logs" / "supervisord.log").read_text(encoding="utf-8")
        return re.findall(rf"exited: {name} \((.*)\)", log)[-1]

    async def until_healthy(self, names: Sequence[str]) -> None:
        await asyncio.to_thread(self.stack.wait_until_healthy, names)


Disturb = Callable[[Site], Awaitable[list[str]]]
"""Kills or stops components, waits until they are healthy again, and returns the problems it saw."""


@dataclass(frozen=True)
class Crash:
    """With `all_in_time`, no order may be late."""

    name: str
    title: str
    disturb: Disturb
    all_in_time: bool = True
    terminates_workflows: bool = False
    execution: ExecutionMode = ExecutionMode.FAST
    max_rate: float = math.inf


@dataclass(frozen=True)
class Aftermath:
    """The result of a crash."""

    crash: Crash
    orders: int
    completed: int
    late: int
    lost: list[str]
    recovery_seconds: float
    last_in_flight_seconds: float
    """From the crash to the last outcome of the orders that were in flight then."""

    slowest_seconds: float
    rejected: int
    """Rejected starts, each of which was retried."""

    send_delay_p99_ms: float
    """p99 of the send delay. If it is high, the machine was overloaded."""

    audit: AuditReport
    problems: list[str] = field(default_factory=list)


# --- Crashes ----------------------------------------------------------------------------------------


def kill_component(name: str) -> Disturb:
    async def disturb(site: Site) -> list[str]:
        await kill(site, name)
        await site.until_healthy([name])
        return []

    return disturb


async def kill_all_workers(site: Site) -> list[str]:
    """Kill all workers and keep them stopped for 2 s."""
    names = await asyncio.to_thread(site.names, "order-worker", "shipping-worker")
    back_at = time.monotonic() + WORKERS_STOP_SECONDS
    await asyncio.gather(*(kill(site, name) for name in names))
    await asyncio.gather(*(asyncio.to_thread(site.stack.stop, name) for name in names))
    await asyncio.sleep(back_at - time.monotonic())
    await asyncio.gather(*(asyncio.to_thread(site.stack.start, name) for name in names))
    return []


async def stop_each_worker(site: Site) -> list[str]:
    """Send SIGTERM to each worker, the next one when the previous one is healthy again."""
    names = await asyncio.to_thread(site.names, "order-worker", "shipping-worker")
    return [problem for name in names for problem in await stop_gracefully(site, name)]


async def stop_order_and_shipping_worker(site: Site) -> list[str]:
    """Send SIGTERM to an order worker and, after its orders have moved to others, to a shipping worker."""
    problems = await stop_gracefully(site, "order-worker-1")
    await asyncio.sleep(BETWEEN_STOPS_SECONDS)
    return problems + await stop_gracefully(site, "shipping-worker-1")


async def stop_gracefully(site: Site, name: str) -> list[str]:
    """Send SIGTERM twice and wait until the supervisor has restarted the worker; return the problems."""
    problems = []
    began = time.monotonic()
    process = psutil.Process(await asyncio.to_thread(site.stack.kill, name, signal.SIGTERM))
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
    alive = await asyncio.to_thread(wait_until_ended, [process], EXIT_SECONDS)
    seconds = time.monotonic() - began
    if alive or seconds > STOP_SECONDS:
        problems.append(f"{name} took {seconds:.1f} s to exit")
    await site.until_healthy([name])
    if (ended := site.last_exit(name)) != "exit status 0; expected":
        problems.append(f"{name} exited with {ended}")
    return problems


async def kill(site: Site, name: str) -> None:
    """Kill a component and wait until its process has ended."""
    pid = await asyncio.to_thread(site.stack.kill, name, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(wait_until_ended, [psutil.Process(pid)], EXIT_SECONDS)


async def kill_everything(site: Site) -> list[str]:
    """Kill the supervisor and all its processes, then call `up`."""
    supervisor = psutil.Process(site.stack.supervisor_pid())
    for process in (supervisor, *supervisor.children(recursive=True)):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(site.stack.up)
    return []


def stop_component(name: str) -> Disturb:
    async def disturb(site: Site) -> list[str]:
        back_at = time.monotonic() + LONG_STOP_SECONDS
        await asyncio.to_thread(site.stack.stop, name)
        await asyncio.sleep(back_at - time.monotonic())
        await asyncio.to_thread(site.stack.start, name)
        return []

    return disturb


async def nothing(site: Site) -> list[str]:
    """The operator terminates workflows meanwhile."""
    return []


CRASHES = (
    Crash("order-worker", "an order worker", kill_component("order-worker-1")),
    Crash(
        "visible-worker",
        "an order worker, orders in `visible` execution",
        kill_component("order-worker-1"),
        execution=ExecutionMode.VISIBLE,
        max_rate=3.0,
    ),
    Crash("shipping-worker", "a shipping worker", kill_component("shipping-worker-1")),
    Crash(
        "worker-stop", "SIGTERM to an order worker, then to a shipping worker", stop_order_and_shipping_worker
    ),
    Crash(
        "graceful-stop",
        "SIGTERM to each worker, one right after the other",
        stop_each_worker,
        # Each order changes workers twice within seconds, while starting workers use the CPU.
        all_in_time=False,
    ),
    Crash("all-workers", "all workers for 2 s", kill_all_workers),
    Crash("api", "the API", kill_component("api")),
    Crash("postgres", "PostgreSQL", kill_component("postgres")),
    Crash("temporal", "Temporal", kill_component("temporal")),
    Crash("stack", "the whole stack, then `up`", kill_everything, all_in_time=False),
    Crash("postgres-stop", "PostgreSQL stopped for 20 s", stop_component("postgres"), all_in_time=False),
    Crash("temporal-stop", "Temporal stopped for 20 s", stop_component("temporal"), all_in_time=False),
    Crash(
        "operator",
        "an operator terminates every third workflow",
        nothing,
        all_in_time=False,
        terminates_workflows=True,
    ),
)


def crash_named(name: str) -> Crash:
    """Raises KeyError for an unknown name."""
    return {crash.name: crash for crash in CRASHES}[name]


# --- Running one ------------------------------------------------------------------------------------


@contextmanager
def temporary_site() -> Iterator[Site]:
    """Start a stack in a temporary directory. It ends with this process; call it from the main thread."""
    with temporary_home("orders-chaos-") as home:
        # An operator terminates more workflows than the reconciler closes by default without a confirmation.
        settings = Settings().isolated(home, port_base=free_port_base(), reconciler_max_orphans=ORDERS)
        stack = Stack(settings)
        stack.up(bound=True)
        yield Site(stack, settings)


async def set_faults(settings: Settings, profile: str) -> None:
    """Set the fault profile; retry on 503."""
    async with httpx.AsyncClient(base_url=settings.api_url, trust_env=False) as http:
        for _ in range(FAULTS_ATTEMPTS):
            response = await http.put("/faults", json={"profile": profile, "seed": 1})
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            await asyncio.sleep(float(response.headers.get("Retry-After", 1)))
        response.raise_for_status()


async def run_crash(site: Site, crash: Crash, *, orders: int = ORDERS, rate: float = RATE) -> Aftermath:
    """Send orders, crash, wait for all outcomes, and audit."""
    await set_faults(site.settings, "assignment")
    run_id = f"chaos-{uuid4().hex[:8]}"
    acknowledged: list[str] = []
    third_acknowledged = asyncio.Event()
    operator = Operator(site, random.Random(run_id)) if crash.terminates_workflows else None

    async def on_acknowledged(_http: httpx.AsyncClient, order_id: str) -> None:
        acknowledged.append(order_id)
        if len(acknowledged) >= orders // 3:
            third_acknowledged.set()
        if operator is not None and len(acknowledged) % TERMINATED_SHARE == 0:
            await operator.terminate(order_id)

    sending = asyncio.create_task(
        send_orders(
            site.settings.api_url,
            run_id=run_id,
            rate=min(rate, crash.max_rate),
            count=orders,
            action=on_acknowledged,
            retry_for_seconds=RETRY_SECONDS,
            execution=crash.execution,
        )
    )
    await third_acknowledged.wait()
    crashed_at, began = datetime.now(UTC), time.monotonic()
    seen = await crash.disturb(site)
    recovery_seconds = time.monotonic() - began
    report = await sending
    finished = await wait_for_outcomes(
        site.settings.api_url, report.acknowledged, timeout_seconds=DRAIN_SECONDS
    )
    lost = [order_id for order_id in report.acknowledged if order_id not in finished]
    audited, times, late = await audit_run(site, run_id, report, crashed_at)
    return Aftermath(
        crash=crash,
        orders=report.offered,
        completed=sum(1 for status in finished.values() if status["status"] == "completed"),
        late=audited.late,
        lost=lost,
        recovery_seconds=recovery_seconds,
        last_in_flight_seconds=float(times["last_in_flight_seconds"] or 0),
        slowest_seconds=float(times["slowest_seconds"] or 0),
        rejected=report.rejected,
        send_delay_p99_ms=sorted(report.send_delay_ms)[-1 - len(report.send_delay_ms) // 100],
        audit=audited,
        problems=seen + find_problems(crash, report, lost, audited, late),
    )


class Operator:
    """Terminates workflows at random times."""

    def __init__(self, site: Site, chance: random.Random) -> None:
        self._site = site
        self._chance = chance
        self._client = asyncio.ensure_future(connect(site.settings))

    async def terminate(self, order_id: str) -> None:
        await asyncio.sleep(self._chance.uniform(0, TERMINATED_WITHIN_SECONDS))
        handle = (await self._client).get_workflow_handle(order_workflow_id(order_id))
        try:
            await handle.terminate("operator")
        except RPCError as error:
            # The order had its outcome already.
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise


async def audit_run(
    site: Site, run_id: str, report: LoadReport, crashed_at: datetime
) -> tuple[AuditReport, Row, list[Row]]:
    """Return the audit, the times and the late orders of the run.

    Waits until Temporal lists all its workflows as closed.
    """
    client = await connect(site.settings)
    not_after = time.monotonic() + VISIBLE_SECONDS
    async with Database(site.settings.order_database_url, application_name="chaos") as database:
        while True:
            audited = await audit(database, client, run_id, acknowledged=report.acknowledged)
            if audited.workflows_checked >= report.offered or time.monotonic() > not_after:
                break
            await asyncio.sleep(POLL_SECONDS)
        times = await database.fetch_one(TIMES, {"run_id": run_id, "crashed_at": crashed_at})
        late = await database.fetch_all(LATE, {"run_id": run_id})
    assert times is not None
    return audited, times, late


TIMES = """
select max(completion_ms) / 1000.0 as slowest_seconds,
    extract(epoch from max(finished_at) filter (where accepted_at <= %(crashed_at)s) - %(crashed_at)s)
        as last_in_flight_seconds
from orders where run_id = %(run_id)s
"""

LATE = """
select o.order_id, o.state, o.abort_reason, o.completion_ms, string_agg(
        format('%%s s %%s %%s %%s %%s by %%s',
            round(extract(epoch from e.at - o.accepted_at), 2), e.kind, e.state, e.step, e.outcome, e.worker),
        '; ' order by e.at) as events
from orders o join events e using (order_id)
where o.run_id = %(run_id)s and not o.within_limit
group by o.order_id
"""


def find_problems(
    crash: Crash, report: LoadReport, lost: list[str], audited: AuditReport, late: list[Row]
) -> list[str]:
    """Return a sentence for each problem."""
    problems = [f"{order_id} was never acknowledged: {why}" for order_id, why in report.failures.items()]
    problems += [f"{order_id} was acknowledged and has no outcome" for order_id in lost]
    problems += [
        f"invariant {violation.invariant}, {violation.order_id}: {violation.finding} {violation.evidence}"
        for violation in audited.violations
    ]
    if audited.open_orders:
        problems.append(f"without outcome: {', '.join(audited.open_orders)}")
    if audited.finished != report.offered:
        problems.append(f"{audited.finished} orders in the database, {report.offered} sent")
    if audited.workflows_checked != report.offered:
        problems.append(f"{audited.workflows_checked} closed workflows, {report.offered} orders")
    if crash.all_in_time:
        problems += [
            f"{order['order_id']} is late: {order['state']} ({order['abort_reason']}) after "
            f"{order['completion_ms']} ms: {order['events']}"
            for order in late[:MAX_LISTED_LATE]
        ]
        problems += [f"{len(late) - MAX_LISTED_LATE} more are late"] if len(late) > MAX_LISTED_LATE else []
    return problems


# --- The table --------------------------------------------------------------------------------------

TABLE_HEAD = (
    "| crash | orders | completed | late | lost | healthy again after | last outcome of orders in flight "
    "| slowest order | rejected starts | send delay p99 | audit |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def print_result(aftermath: Aftermath) -> bool:
    """Print the row of a crash and its problems; return whether it has none."""
    print(table_row(aftermath), flush=True)  # noqa: T201
    for problem in aftermath.problems:
        print(f"{aftermath.crash.name}: {problem}", file=sys.stderr, flush=True)  # noqa: T201
    return not aftermath.problems


def table_row(aftermath: Aftermath) -> str:
    cells = (
        aftermath.crash.title,
        str(aftermath.orders),
        str(aftermath.completed),
        str(aftermath.late),
        str(len(aftermath.lost)),
        f"{aftermath.recovery_seconds:.1f} s",
        f"{aftermath.last_in_flight_seconds:.1f} s",
        f"{aftermath.slowest_seconds:.1f} s",
        str(aftermath.rejected),
        f"{aftermath.send_delay_p99_ms:.0f} ms",
        "passed" if aftermath.audit.is_clean else f"{len(aftermath.audit.violations)} violations",
    )
    return f"| {' | '.join(cells)} |"
