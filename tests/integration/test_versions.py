"""A new version of the workers takes over while orders run, by `temporal worker deployment`."""

import asyncio
import json
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
from orchestrator.embedded.health_checks import HealthChecks
from orchestrator.embedded.layout import PROJECT_ROOT, packaged_program, stack_environment
from orchestrator.gateways.fault_injection import named_profile
from orchestrator.messages.ids import shipping_workflow_id
from orchestrator.messages.orders import OrderResult
from orchestrator.operations.doctor import diagnose
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from orchestrator.workflows.order import OrderWorkflow
from tests.shop import Shop
from tests.temporal_server import temporal_server

RATE = 4.0
TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.1

Handle = WorkflowHandle[OrderWorkflow, OrderResult]


class Deployment:
    """Temporal and PostgreSQL, worker processes of several versions, and Temporal's own commands."""

    def __init__(self, settings: Settings, client: Client, pool: Database, logs: Path) -> None:
        self.settings = settings
        self.client = client
        self.pool = pool
        self.shop = Shop("versions", client, pool, settings.order_task_queue, settings.shipping_task_queue)
        self._logs = logs

    @contextmanager
    def workers(self, build_id: str | None, kind: str = "all") -> Iterator["subprocess.Popen[bytes]"]:
        """A worker process of a version; killed at the end if it is still running."""
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
        """Start orders at an even rate."""
        handles = []
        for n in range(count):
            handles.append(await self.shop.place(self.shop.order(f"{name}-{n}", auto_review_seconds=0.5)))
            await asyncio.sleep(1 / RATE)
        return handles

    async def temporal(self, command: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """Run `temporal worker deployment COMMAND`, as the documentation shows it."""
        return await asyncio.to_thread(
            subprocess.run,
            [
                *(packaged_program("temporal"), "worker", "deployment", command),
                *("--deployment-name", self.settings.worker_deployment_name),
                *options,
                *("--address", self.settings.temporal_target),
                *("--namespace", self.settings.temporal_namespace),
            ],
            capture_output=True,
            text=True,
            check=False,
        )

    async def set_current(self, build_id: str) -> None:
        done = await self.temporal("set-current-version", "--build-id", build_id, "--yes")
        assert done.returncode == 0, done.stderr

    async def describe(self, build_id: str) -> dict[str, Any] | None:
        """Return the description of a version; None if Temporal does not know it."""
        done = await self.temporal("describe-version", "--build-id", build_id, "--output", "json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    async def until_served(self, build_id: str, queues: int = 3) -> None:
        async def is_served() -> bool:
            version = await self.describe(build_id)
            return (
                version is not None and len({each["name"] for each in version["taskQueuesInfos"]}) == queues
            )

        await until(is_served)

    async def running(self, build_id: str) -> int:
        """Return the number of running workflows of a version."""
        count = await self.client.count_workflows(
            f"TemporalWorkerDeploymentVersion = '{self.settings.worker_deployment_name}:{build_id}'"
            " AND ExecutionStatus = 'Running'"
        )
        return count.count


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            if await condition():
                return
            await asyncio.sleep(POLL_SECONDS)


@pytest.fixture(scope="module")
def servers(order_database_url: str) -> Iterator[Settings]:
    with temporal_server() as settings:
        yield settings.model_copy(update={"database_url": order_database_url})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def deployment(
    servers: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    async with Database(servers.order_database_url, application_name="tests") as pool:
        profile = named_profile("assignment", 1)
        await fault_profiles.record(pool, profile.name, profile.seed, profile.to_json())
        yield Deployment(servers, await connect(servers), pool, tmp_path_factory.mktemp("workers"))


async def version_of(client: Client, workflow_id: str) -> tuple[VersioningBehavior, str]:
    description = await client.get_workflow_handle(workflow_id).describe()
    info = description.raw_description.workflow_execution_info.versioning_info
    return VersioningBehavior(info.behavior), info.deployment_version.build_id


@pytest.mark.proof
async def test_orders_finish_on_their_version_and_none_is_late(deployment: Deployment) -> None:
    with deployment.workers(None) as unversioned:
        before = await deployment.place(6, "before")
        with deployment.workers("one") as one:
            await deployment.until_served("one")
            await deployment.set_current("one")
            # Workers without a version receive no more tasks: their orders continue on the current version.
            unversioned.send_signal(signal.SIGTERM)
            old = await deployment.place(12, "old")
            with deployment.workers("two") as two:
                await deployment.until_served("two")
                await until(lambda: advice_for(deployment.settings, "several-versions"))
                assert await deployment.running("two") == 0
                await deployment.set_current("two")
                new = await deployment.place(12, "new")
                results = await asyncio.gather(*(each.result() for each in (*before, *old)))

                async def old_version_is_drained() -> bool:
                    return await deployment.running("one") == 0

                await until(old_version_is_drained)
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
            assert await version_of(deployment.client, handle.id) == pinned
            order_id = handle.id.removeprefix("order-")
            if "prepare" in await attempted_steps(deployment, order_id):
                assert await version_of(deployment.client, shipping_workflow_id(order_id, 1)) == pinned
    await deployment.shop.until_visible([*before, *old, *new])
    report = await audit(deployment.pool, deployment.client, deployment.shop.run_id)
    assert (report.violations, report.open_orders, report.late, report.finished) == ([], [], 0, 30)


async def attempted_steps(deployment: Deployment, order_id: str) -> set[str]:
    rows = await deployment.pool.fetch_all(
        "select step from events where order_id = %(id)s and kind = 'attempt'", {"id": order_id}
    )
    return {row["step"] for row in rows}


async def test_health_checks_see_workers_of_a_version(deployment: Deployment) -> None:
    began_at = datetime.now(UTC)
    with deployment.workers("seen") as process, HealthChecks(deployment.settings) as checks:
        for queue in ("order-tq", "shipping-tq"):
            await until(
                lambda queue=queue: asyncio.to_thread(checks.worker_polls, queue, "all-seen", began_at)  # type: ignore[misc]
            )
        report = await Health(deployment.settings, deployment.pool, deployment.client).report()
        assert report.status == "healthy"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 5) == 0


async def advice_for(settings: Settings, key: str) -> list[str]:
    """Return the advice of the doctor's findings with this key."""
    external = settings.model_copy(update={"temporal_address": settings.temporal_target})
    return [finding.advice for finding in (await diagnose(external)).findings if finding.key == key]


async def test_the_doctor_reports_workers_that_receive_no_orders(
    deployment: Deployment, tmp_path: Path
) -> None:
    settings = deployment.settings.model_copy(update={"worker_deployment_name": "idle"})
    fresh = Deployment(settings, deployment.client, deployment.pool, tmp_path)

    async def idle() -> list[str]:
        return await advice_for(settings, "no-current-version")

    with fresh.workers("first"):
        await fresh.until_served("first")
        await until(idle)
        assert "temporal worker deployment set-current-version" in (await idle())[0]
        await fresh.set_current("first")
        assert await idle() == []


async def test_the_doctor_reports_a_current_version_without_shipping_workers(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Temporal refuses a version that it does not know, but not one that serves only some task queues."""
    settings = deployment.settings.model_copy(update={"worker_deployment_name": "incomplete"})
    incomplete = Deployment(settings, deployment.client, deployment.pool, tmp_path)
    with incomplete.workers("half", kind="order"):
        await incomplete.until_served("half", queues=2)
        refused = await incomplete.temporal("set-current-version", "--build-id", "nowhere", "--yes")
        assert (refused.returncode, "not found" in refused.stderr) == (1, True), refused
        await incomplete.set_current("half")
        await until(lambda: advice_for(settings, "current-version-incomplete"))


async def test_a_share_of_new_orders_goes_to_a_version(deployment: Deployment) -> None:
    with deployment.workers("ramped"):
        await deployment.until_served("ramped")
        ramp = ("set-ramping-version", "--build-id", "ramped", "--yes")
        assert (await deployment.temporal(*ramp, "--percentage", "25")).returncode == 0
        version = await deployment.describe("ramped")
        assert version is not None
        assert version["rampPercentage"] == 25
        assert (await deployment.temporal(*ramp, "--delete")).returncode == 0
        version = await deployment.describe("ramped")
        assert version is not None
        assert version["rampPercentage"] == 0
