"""Crashes of real processes under load, and what must be true after each.

Orders arrive through the REST API at an even rate under the `assignment` faults. When a third of them has
been acknowledged something is killed, or taken away, while orders keep arriving; a careful client repeats
the starts that nobody answered, and those that were told to come again. In the end every acknowledged order
must have its outcome and the audit must be clean.
"""

import asyncio
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import psutil
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database, Row
from orchestrator.audit import AuditReport, audit
from orchestrator.embedded import Stack
from orchestrator.embedded.process_table import wait_until_ended
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect
from orchestrator.workflow_ids import order_workflow_id
from tests.async_load import LoadReport, send_orders, wait_for_outcomes
from tests.ports import free_port_base

ORDERS = 150
RATE = 7.0
"""Orders a second."""

RETRY_SECONDS = 90.0
"""How long the client repeats a start."""

DRAIN_SECONDS = 90.0
"""How long orders may take until nobody believes in them any more."""

DYING_SECONDS = 5.0
STOP_SECONDS = 3.0
"""What a worker has to end in when it is asked to."""

BETWEEN_STOPS_SECONDS = 2.0
WORKERS_AWAY_SECONDS = 2.0
LONG_AWAY_SECONDS = 20.0
TERMINATED_SHARE = 3
"""One in so many orders is terminated by the operator."""

TERMINATED_WITHIN_SECONDS = 4.0
LATE_SHOWN = 5
"""Of late orders the story is told, but not of each of a hundred."""

FAULTS_TRIES = 10
VISIBLE_SECONDS = 15.0
LOOK_AGAIN_SECONDS = 0.2


@dataclass(frozen=True)
class Site:
    """A running stack to crash."""

    stack: Stack
    settings: Settings

    def names(self, *kinds: str) -> list[str]:
        return [component.name for component in self.stack.components() if component.name.startswith(kinds)]

    def how_it_ended(self, name: str) -> str:
        """The supervisor's words for the last end of a component that was not stopped through it."""
        log = (self.settings.home / "logs" / "supervisord.log").read_text(encoding="utf-8")
        return re.findall(rf"exited: {name} \((.*)\)", log)[-1]

    async def until_healthy(self, names: Sequence[str]) -> None:
        await asyncio.to_thread(self.stack.wait_until_healthy, names)


Strike = Callable[[Site], Awaitable[list[str]]]
"""Kills or takes away, and returns when the part is healthy again: what it saw that was not as promised."""


@dataclass(frozen=True)
class Crash:
    """`promises_limit`: not even this makes an order late."""

    name: str
    title: str
    strike: Strike
    promises_limit: bool = True
    terminates_workflows: bool = False


@dataclass(frozen=True)
class Aftermath:
    """What a crash has done. `last_in_flight_seconds` counts from the crash until the last order that was
    under way then had its outcome."""

    crash: Crash
    orders: int
    completed: int
    late: int
    lost: list[str]
    recovery_seconds: float
    last_in_flight_seconds: float
    slowest_seconds: float
    shed: int
    """How often a start was told to come again later."""

    generator_lag_ms: float
    """How late the slowest hundredth of orders was sent: much, and the machine itself was too busy."""

    audit: AuditReport
    broken_promises: list[str] = field(default_factory=list)


# --- Crashes ----------------------------------------------------------------------------------------


def kill_one(name: str) -> Strike:
    async def strike(site: Site) -> list[str]:
        await kill(site, name)
        await site.until_healthy([name])
        return []

    return strike


async def kill_all_workers(site: Site) -> list[str]:
    """All at once, and kept away although the supervisor would start them at once."""
    names = await asyncio.to_thread(site.names, "order-worker", "shipping-worker")
    back_at = time.monotonic() + WORKERS_AWAY_SECONDS
    await asyncio.gather(*(kill(site, name) for name in names))
    await asyncio.gather(*(asyncio.to_thread(site.stack.stop, name) for name in names))
    await asyncio.sleep(back_at - time.monotonic())
    await asyncio.gather(*(asyncio.to_thread(site.stack.start, name) for name in names))
    return []


async def stop_each_worker(site: Site) -> list[str]:
    """Asks one worker after the other to end, the next one as soon as the last is back."""
    names = await asyncio.to_thread(site.names, "order-worker", "shipping-worker")
    return [broken for name in names for broken in await ask_to_end(site, name)]


async def stop_one_of_each(site: Site) -> list[str]:
    """Asks an order worker to end, and when its orders have long changed hands, a shipping worker."""
    broken = await ask_to_end(site, "order-worker-1")
    await asyncio.sleep(BETWEEN_STOPS_SECONDS)
    return broken + await ask_to_end(site, "shipping-worker-1")


async def ask_to_end(site: Site, name: str) -> list[str]:
    """Asks twice, as impatient people do; returns when the supervisor has started it again, with what was not
    as promised."""
    broken = []
    began = time.monotonic()
    process = psutil.Process(await asyncio.to_thread(site.stack.kill, name, signal.SIGTERM))
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
    alive = await asyncio.to_thread(wait_until_ended, [process], DYING_SECONDS)
    seconds = time.monotonic() - began
    if alive or seconds > STOP_SECONDS:
        broken.append(f"{name} took {seconds:.1f} s to end")
    await site.until_healthy([name])
    if (ended := site.how_it_ended(name)) != "exit status 0; expected":
        broken.append(f"{name} ended with {ended}")
    return broken


async def kill(site: Site, name: str) -> None:
    """Returns when the process is dead, so that nobody takes it for a healthy one."""
    pid = await asyncio.to_thread(site.stack.kill, name, signal.SIGKILL)
    with suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(wait_until_ended, [psutil.Process(pid)], DYING_SECONDS)


async def kill_everything(site: Site) -> list[str]:
    """The supervisor and every process below it, then `up`."""
    supervisor = psutil.Process(site.stack.supervisor_pid())
    for process in (supervisor, *supervisor.children(recursive=True)):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(site.stack.up)
    return []


def take_away(name: str) -> Strike:
    async def strike(site: Site) -> list[str]:
        back_at = time.monotonic() + LONG_AWAY_SECONDS
        await asyncio.to_thread(site.stack.stop, name)
        await asyncio.sleep(back_at - time.monotonic())
        await asyncio.to_thread(site.stack.start, name)
        return []

    return strike


async def nothing(site: Site) -> list[str]:
    """The operator's terminations are strikes enough."""
    return []


CRASHES = (
    Crash("order-worker", "an order worker", kill_one("order-worker-1")),
    Crash("shipping-worker", "a shipping worker", kill_one("shipping-worker-1")),
    Crash("asked-to-end", "an order worker asked to end, then a shipping worker", stop_one_of_each),
    Crash(
        "graceful-stop",
        "each worker asked to end, one right after the other",
        stop_each_worker,
        # Every order changes hands twice within seconds, while workers that start take the processors.
        promises_limit=False,
    ),
    Crash("all-workers", "all workers, back after 2 s", kill_all_workers),
    Crash("api", "the API", kill_one("api")),
    Crash("postgres", "PostgreSQL", kill_one("postgres")),
    Crash("temporal", "Temporal", kill_one("temporal")),
    Crash("stack", "the whole stack, then `up`", kill_everything, promises_limit=False),
    Crash("postgres-away", "PostgreSQL away for 20 s", take_away("postgres"), promises_limit=False),
    Crash("temporal-away", "Temporal away for 20 s", take_away("temporal"), promises_limit=False),
    Crash(
        "operator",
        "an operator terminates every third workflow",
        nothing,
        promises_limit=False,
        terminates_workflows=True,
    ),
)


def named(name: str) -> Crash:
    """Raises KeyError for a name that no crash has."""
    return {crash.name: crash for crash in CRASHES}[name]


# --- Running one ------------------------------------------------------------------------------------


@contextmanager
def site_of_its_own() -> Iterator[Site]:
    """A whole stack in a directory of its own and on free ports, gone afterwards, even if we are killed.

    Call it from the main thread.
    """
    home = tempfile.mkdtemp(prefix="orders-chaos-")
    settings = Settings().isolated(Path(home), port_base=free_port_base())
    stack = Stack(settings)
    try:
        stack.up(bound=True)
        yield Site(stack, settings)
    finally:
        stack.down()
        shutil.rmtree(home, ignore_errors=True)


async def set_faults(settings: Settings, profile: str) -> None:
    """As a careful client: 503 says that a part does not answer just now."""
    async with httpx.AsyncClient(base_url=settings.api_url, trust_env=False) as http:
        for _ in range(FAULTS_TRIES):
            response = await http.put("/faults", json={"profile": profile, "seed": 1})
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            await asyncio.sleep(float(response.headers.get("Retry-After", 1)))
        response.raise_for_status()


async def run_crash(site: Site, crash: Crash, *, orders: int = ORDERS, rate: float = RATE) -> Aftermath:
    """Sends orders, crashes, waits for every outcome, and audits."""
    await set_faults(site.settings, "assignment")
    run_id = f"chaos-{uuid4().hex[:8]}"
    acknowledged: list[str] = []
    third_is_in = asyncio.Event()
    operator = Operator(site, random.Random(run_id)) if crash.terminates_workflows else None

    async def note(_http: httpx.AsyncClient, order_id: str) -> None:
        acknowledged.append(order_id)
        if len(acknowledged) >= orders // 3:
            third_is_in.set()
        if operator is not None and len(acknowledged) % TERMINATED_SHARE == 0:
            await operator.terminate(order_id)

    driving = asyncio.create_task(
        send_orders(
            site.settings.api_url,
            run_id=run_id,
            rate=rate,
            count=orders,
            action=note,
            retry_for_seconds=RETRY_SECONDS,
        )
    )
    await third_is_in.wait()
    crashed_at, began = datetime.now(UTC), time.monotonic()
    seen_broken = await crash.strike(site)
    recovery_seconds = time.monotonic() - began
    report = await driving
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
        shed=report.rejected,
        generator_lag_ms=sorted(report.send_delay_ms)[-1 - len(report.send_delay_ms) // 100],
        audit=audited,
        broken_promises=seen_broken + broken_promises(crash, report, lost, audited, late),
    )


class Operator:
    """Terminates workflows at random moments of their lives."""

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
            # It had its outcome already.
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise


async def audit_run(
    site: Site, run_id: str, report: LoadReport, crashed_at: datetime
) -> tuple[AuditReport, Row, list[Row]]:
    """The audit, once Temporal's list shows every workflow of the run as closed; the books' times; and
    the late orders with their stories."""
    client = await connect(site.settings)
    not_after = time.monotonic() + VISIBLE_SECONDS
    async with Database(site.settings.order_database_url, application_name="chaos") as database:
        while True:
            audited = await audit(database, client, run_id, acknowledged=report.acknowledged)
            if audited.workflows_checked >= report.offered or time.monotonic() > not_after:
                break
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
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
        '; ' order by e.at) as story
from orders o join events e using (order_id)
where o.run_id = %(run_id)s and not o.within_limit
group by o.order_id
"""


def broken_promises(
    crash: Crash, report: LoadReport, lost: list[str], audited: AuditReport, late: list[Row]
) -> list[str]:
    """What is not as promised, one sentence each; empty when everything is."""
    broken = [f"{order_id} was never acknowledged: {why}" for order_id, why in report.failures.items()]
    broken += [f"{order_id} was acknowledged and has no outcome" for order_id in lost]
    broken += [
        f"invariant {violation.invariant}, {violation.order_id}: {violation.finding} {violation.evidence}"
        for violation in audited.violations
    ]
    if audited.open_orders:
        broken.append(f"left open: {', '.join(audited.open_orders)}")
    if audited.judged != report.offered:
        broken.append(f"{audited.judged} orders in the books of {report.offered} sent")
    if audited.workflows_checked != report.offered:
        broken.append(f"{audited.workflows_checked} closed workflows of {report.offered} orders")
    if crash.promises_limit:
        broken += [
            f"{order['order_id']} is late: {order['state']} ({order['abort_reason']}) after "
            f"{order['completion_ms']} ms: {order['story']}"
            for order in late[:LATE_SHOWN]
        ]
        broken += [f"{len(late) - LATE_SHOWN} more are late"] if len(late) > LATE_SHOWN else []
    return broken


# --- The table --------------------------------------------------------------------------------------

HEADING = (
    "| crash | orders | completed | late | lost | healthy again after | last in flight done after "
    "| slowest order | told to come again | generator p99 late | audit |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


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
        str(aftermath.shed),
        f"{aftermath.generator_lag_ms:.0f} ms",
        "clean" if aftermath.audit.is_clean else f"{len(aftermath.audit.violations)} violations",
    )
    return f"| {' | '.join(cells)} |"
