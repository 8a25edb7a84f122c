"""Versions of the workers' code: which there are, and which one new orders go to.

An order stays with the version it began on (docs/decisions/0009), so the workers of a version are needed
until no order runs on it.
"""

from dataclasses import dataclass

from temporalio.api.deployment.v1 import WorkerDeploymentInfo, WorkerDeploymentVersion
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentVersionRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.errors import UsageError
from orchestrator.settings import Settings
from orchestrator.temporal_client import temporal_errors


@dataclass(frozen=True)
class Version:
    """`share` of new orders, 0 to 100; how many workflows run on it; the task queues its workers serve."""

    build_id: str
    share: float
    running: int
    task_queues: tuple[str, ...]


class Versions:
    """The versions of one deployment. Raises TemporalUnavailable when Temporal does not answer."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self._client = client
        self._deployment = settings.worker_deployment_name
        self._needed = {settings.order_task_queue, settings.shipping_task_queue}

    async def all(self) -> list[Version]:
        """The newest first; none before the first versioned worker has started."""
        info = await self._described()
        if info is None:
            return []
        summaries = sorted(
            info.version_summaries, key=lambda summary: summary.create_time.ToDatetime(), reverse=True
        )
        return [await self._version(info, summary.deployment_version.build_id) for summary in summaries]

    async def current(self) -> str | None:
        """The version that new orders go to; None when they go to workers without a version."""
        info = await self._described()
        return None if info is None else info.routing_config.current_deployment_version.build_id or None

    async def set_current(self, build_id: str) -> None:
        """Sends new orders to this version from now on.

        Raises UsageError when no workers of it serve both task queues: orders would wait for them.
        """
        await self._check_served(build_id)
        with temporal_errors():
            await self._client.workflow_service.set_worker_deployment_current_version(
                SetWorkerDeploymentCurrentVersionRequest(
                    namespace=self._client.namespace,
                    deployment_name=self._deployment,
                    build_id=build_id,
                    identity=self._client.identity,
                )
            )

    async def ramp(self, build_id: str, percentage: float) -> None:
        """Sends a share of new orders to this version; 0 ends that. Raises UsageError as `set_current`."""
        if percentage > 0:
            await self._check_served(build_id)
        with temporal_errors():
            await self._client.workflow_service.set_worker_deployment_ramping_version(
                SetWorkerDeploymentRampingVersionRequest(
                    namespace=self._client.namespace,
                    deployment_name=self._deployment,
                    build_id=build_id if percentage > 0 else "",
                    percentage=percentage,
                    identity=self._client.identity,
                )
            )

    async def _described(self) -> WorkerDeploymentInfo | None:
        try:
            with temporal_errors():
                answer = await self._client.workflow_service.describe_worker_deployment(
                    DescribeWorkerDeploymentRequest(
                        namespace=self._client.namespace, deployment_name=self._deployment
                    )
                )
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        return answer.worker_deployment_info

    async def _version(self, info: WorkerDeploymentInfo, build_id: str) -> Version:
        routing = info.routing_config
        ramped = routing.ramping_version_percentage if routing.ramping_deployment_version.build_id else 0.0
        if build_id == routing.current_deployment_version.build_id:
            share = 100.0 - ramped
        else:
            share = ramped if build_id == routing.ramping_deployment_version.build_id else 0.0
        with temporal_errors():
            running = await self._client.count_workflows(
                f"TemporalWorkerDeploymentVersion = '{self._deployment}:{build_id}'"
                " AND ExecutionStatus = 'Running'"
            )
        return Version(build_id, share, running.count, tuple(sorted(await self._served(build_id))))

    async def _served(self, build_id: str) -> set[str]:
        """The task queues that workers of a version have ever polled."""
        version = WorkerDeploymentVersion(deployment_name=self._deployment, build_id=build_id)
        try:
            with temporal_errors():
                answer = await self._client.workflow_service.describe_worker_deployment_version(
                    DescribeWorkerDeploymentVersionRequest(
                        namespace=self._client.namespace, deployment_version=version
                    )
                )
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return set()
            raise
        return {queue.name for queue in answer.version_task_queues}

    async def _check_served(self, build_id: str) -> None:
        if missing := self._needed - await self._served(build_id):
            raise UsageError(
                f"No worker of version {build_id} serves {' and '.join(sorted(missing))}; "
                "start its order and shipping workers first."
            )
