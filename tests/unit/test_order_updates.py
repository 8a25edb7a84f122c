"""Sending an update to a workflow that is not ready."""

from typing import Any, cast

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.errordetails.v1 import WorkflowNotReadyFailure
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from db.domain import State
from orchestrator.api import order_service
from orchestrator.api.admission import Admission
from orchestrator.api.order_service import OrderService
from orchestrator.messages import CancelOrder, RequestResult
from orchestrator.settings import Settings


def not_ready() -> RPCError:
    """The server's error while a failed workflow task is being retried."""
    detail = AnyMessage()
    detail.Pack(WorkflowNotReadyFailure())
    code = RPCStatusCode.FAILED_PRECONDITION
    return RPCError("not ready", code, GrpcStatus(code=code, details=[detail]).SerializeToString())


class FakeTemporal:
    """A client with one workflow, and its handle."""

    def __init__(self, *results: RPCError | RequestResult) -> None:
        self._results = list(results)

    def get_workflow_handle(self, _workflow_id: str) -> "FakeTemporal":
        return self

    async def execute_update(self, _name: str, _request: object, **_options: Any) -> RequestResult:
        result = self._results.pop(0)
        if isinstance(result, RPCError):
            raise result
        return result


async def test_an_update_is_retried_while_the_workflow_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_service, "NOT_READY_PAUSE_SECONDS", 0.0)
    accepted = RequestResult(True, "the order is being cancelled", State.RECEIVED)
    temporal, database = FakeTemporal(not_ready(), not_ready(), accepted), cast(Database, None)
    service = OrderService(Settings(), database, cast(Client, temporal), Admission(Settings(), database))
    assert await service.send_request("o", CancelOrder("not wanted", "anna")) == accepted
