"""How the API passes a request on to an order whose workflow is not ready to hear it."""

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
    """What the server says while a workflow task has failed and is to be done again."""
    detail = AnyMessage()
    detail.Pack(WorkflowNotReadyFailure())
    code = RPCStatusCode.FAILED_PRECONDITION
    return RPCError("not ready", code, GrpcStatus(code=code, details=[detail]).SerializeToString())


class Temporal:
    """Stands in for the client and the handle of its one workflow."""

    def __init__(self, *answers: RPCError | RequestResult) -> None:
        self._answers = list(answers)

    def get_workflow_handle(self, _workflow_id: str) -> "Temporal":
        return self

    async def execute_update(self, _name: str, _request: object, **_options: Any) -> RequestResult:
        answer = self._answers.pop(0)
        if isinstance(answer, RPCError):
            raise answer
        return answer


async def test_an_update_is_retried_while_the_workflow_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_service, "NOT_READY_PAUSE_SECONDS", 0.0)
    accepted = RequestResult(True, "the order is being cancelled", State.RECEIVED)
    temporal, database = Temporal(not_ready(), not_ready(), accepted), cast(Database, None)
    service = OrderService(Settings(), database, cast(Client, temporal), Admission(Settings(), database))
    assert await service.send_request("o", CancelOrder("not wanted", "anna")) == accepted
