"""A new version of the workers takes over while orders run, with real processes; and the command for it."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowHandle
from temporalio.common import VersioningBehavior

from db import fault_profiles
from db.database import Database
from orchestrator.api.health import Health
from orchestrator.audit import audit
from orchestrator.embedded.health_checks import Probes
from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.gateways.fault_injection import named_profile
from orchestrator.messages import OrderResult
from orchestrator.operations.doctor import diagnose, take
from orchestrator.settings import Settings
from orchestrator.temporal_client import connect
from orchestrator.versions import Version, Versions
from orchestrator.workflow_ids import shipping_workflow_id
from orchestrator.workflows.order import OrderWorkflow
from tests.shop import Shop
from tests.temporal_server import temporal_server

RATE = 4.0
UNTIL_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 0.1

Handle = WorkflowHandle[OrderWorkflow, OrderResult]


class House:
    """Servers, and the processes that a test starts on them."""

    def __init__(self, settings: Settings, client: Client, pool: Database, logs: Path) -> None:
        self.settings = settings
        self.client = client
        self.pool = pool
        self.versions = Versions(settings, client)
        self.shop = Shop("versions", client, pool, settings.order_task_queue, settings.shipping_task_queue)
        self._logs = logs

    @contextmanager
    def workers(self, build_id: str | None, kind: str = "all") -> Iterator["subprocess.Popen[bytes]"]:
        """A worker process of a version, from its start on; ended by force if it is still there then."""
        settings = self.settings.model_copy(update={"worker_build_id": build_id})
        name = f"{kind}-{build_id}"
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.processes", "worker", kind, "--name", name],
                cwd=PROJECT_ROOT,
                env=stack_environment(settings),
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    async def place(self, count: int, name: str) -> list[Handle]:
        """Orders at an even rate."""
        handles = []
        for n in range(count):
            handles.append(await self.shop.place(self.shop.order(f"{name}-{n}", auto_review_seconds=0.5)))
            await asyncio.sleep(1 / RATE)
        return handles

    async def known(self, build_id: str) -> Version | None:
        return next((each for each in await self.versions.all() if each.build_id == build_id), None)

    async def until_served(self, build_id: str) -> None:
        async def is_served() -> bool:
            version = await self.known(build_id)
            return version is not None and len(version.task_queues) == 2

        await until(is_served)


async def until(look: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(UNTIL_SECONDS):
        while True:
            if await look():
                return
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


@pytest.fixture(scope="module")
def servers(order_database_url: str) -> Iterator[Settings]:
    with temporal_server() as settings:
        yield settings.model_copy(update={"database_url": order_database_url})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with Database(servers.order_database_url, application_name="tests") as pool:
        profile = named_profile("assignment", 1)
        await fault_profiles.record(pool, profile.name, profile.seed, profile.to_json())
        yield House(servers, await connect(servers), pool, tmp_path_factory.mktemp("workers"))


async def version_of(client: Client, workflow_id: str) -> tuple[VersioningBehavior, str]:
    description = await client.get_workflow_handle(workflow_id).describe()
    info = description.raw_description.workflow_execution_info.versioning_info
    return VersioningBehavior(info.behavior), info.deployment_version.build_id


@pytest.mark.proof
async def test_orders_finish_on_the_version_they_began_on_and_none_is_late(house: House) -> None:
    with house.workers(None) as unversioned:
        before = await house.place(6, "before")
        with house.workers("one") as one:
            await house.until_served("one")
            await house.versions.set_current("one")
            # Workers without a version get nothing more: what they had goes on with the current version.
            unversioned.send_signal(signal.SIGTERM)
            old = await house.place(12, "old")
            with house.workers("two") as two:
                await house.until_served("two")
                await until(lambda: noticed(house.settings, "several-versions"))
                assert (await house.known("two")) == Version("two", 0.0, 0, ("order-tq", "shipping-tq"))
                await house.versions.set_current("two")
                new = await house.place(12, "new")
                results = await asyncio.gather(*(each.result() for each in (*before, *old)))

                async def none_runs_on_the_old_version() -> bool:
                    version = await house.known("one")
                    return version is not None and version.running == 0

                await until(none_runs_on_the_old_version)
                one.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(one.wait, 5) == 0
                assert await asyncio.to_thread(unversioned.wait, 5) == 0
                results += await asyncio.gather(*(each.result() for each in new))
                two.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(two.wait, 5) == 0

    assert all(result.completion_ms <= 15_000 for result in results), results
    for handles, build_id in ((old, "one"), (new, "two")):
        for handle in handles:
            pinned = (VersioningBehavior.PINNED, build_id)
            assert await version_of(house.client, handle.id) == pinned
            order_id = handle.id.removeprefix("order-")
            if any(step == "prepare" for step in await steps_of(house, order_id)):
                assert await version_of(house.client, shipping_workflow_id(order_id, 1)) == pinned
    await house.shop.until_visible([*before, *old, *new])
    report = await audit(house.pool, house.client, house.shop.run_id)
    assert (report.violations, report.open_orders, report.late, report.judged) == ([], [], 0, 30)


async def steps_of(house: House, order_id: str) -> set[str]:
    rows = await house.pool.fetch_all(
        "select step from events where order_id = %(id)s and kind = 'attempt'", {"id": order_id}
    )
    return {row["step"] for row in rows}


async def test_health_and_the_stack_see_workers_of_a_version(house: House) -> None:
    began_at = datetime.now(UTC)
    with house.workers("seen") as process, Probes(house.settings) as probes:
        for queue in ("order-tq", "shipping-tq"):
            await until(
                lambda queue=queue: asyncio.to_thread(probes.worker_polls, queue, "all-seen", began_at)  # type: ignore[misc]
            )
        report = await Health(house.settings, house.pool, house.client).report()
        assert report.is_healthy
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 5) == 0


async def noticed(settings: Settings, key: str) -> list[str]:
    """What the doctor advises under `key`."""
    elsewhere = settings.model_copy(update={"temporal_address": settings.temporal_target})
    return [finding.advice for finding in diagnose(await take(elsewhere)) if finding.key == key]


async def test_the_doctor_sees_workers_that_get_no_orders(house: House, tmp_path: Path) -> None:
    settings = house.settings.model_copy(update={"worker_deployment_name": "first-of-all"})
    fresh = House(settings, house.client, house.pool, tmp_path)

    async def idle() -> list[str]:
        return await noticed(settings, "no-current-version")

    with fresh.workers("first"):
        await fresh.until_served("first")
        await until(idle)
        assert await idle() == ["Make it current: python -m orchestrator versions set-current first."]
        await fresh.versions.set_current("first")
        assert await idle() == []


def command(house: House, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "versions", *words],
        cwd=PROJECT_ROOT,
        env=stack_environment(house.settings),
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_command_shows_and_changes_where_new_orders_go(house: House) -> None:
    with house.workers("shown"):
        await house.until_served("shown")
        assert (await asyncio.to_thread(command, house, "ramp", "shown", "25")).returncode == 0
        version = await house.known("shown")
        assert version is not None
        assert version.share == 25.0
        shown = await asyncio.to_thread(command, house)
        assert (shown.returncode, "25 %" in shown.stdout) == (0, True), shown
        assert (await asyncio.to_thread(command, house, "set-current", "shown")).returncode == 0
        version = await house.known("shown")
        assert version is not None
        assert version.share == 100.0


async def test_a_version_that_nobody_serves_is_not_made_current(house: House) -> None:
    refused = await asyncio.to_thread(command, house, "set-current", "nowhere")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "No worker of version nowhere serves order-tq and shipping-tq" in refused.stderr
    with house.workers("half", kind="order"):

        async def half_is_there() -> bool:
            return await house.known("half") is not None

        await until(half_is_there)
        refused = await asyncio.to_thread(command, house, "set-current", "half")
    assert (refused.returncode, "shipping-tq" in refused.stderr) == (2, True), refused
