"""Updates that Temporal rejects or aborts for a short time, and their number per order."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any, cast

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.errordetails.v1 import WorkflowNotReadyFailure
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from db.database import Database
from db.domain import RequestResult, State
from db.read_models import order_details
from orchestrator import errors
from orchestrator.api import order_updates, timeouts
from orchestrator.api.admission import Admission
from orchestrator.api.order_service import OrderService
from orchestrator.api.order_updates import SIMULTANEOUS_UPDATES, OrderUpdates
from orchestrator.messages.requests import TOO_MANY_REQUESTS, CancelOrder
from orchestrator.settings import Settings

CANCEL = CancelOrder("not wanted", "anna")
ACCEPTED = RequestResult(True, "the order is being cancelled", State.RECEIVED)
NO_DATABASE = cast(Database, None)


def rejected(status: RPCStatusCode) -> RPCError:
    return RPCError("rejected", status, b"")


def not_ready() -> RPCError:
    """The server's error while a failed workflow task is being retried."""
    detail = AnyMessage()
    detail.Pack(WorkflowNotReadyFailure())
    code = RPCStatusCode.FAILED_PRECONDITION
    return RPCError("not ready", code, GrpcStatus(code=code, details=[detail]).SerializeToString())


class FakeTemporal:
    """A client with workflows that return or raise `results`, and then repeat the last one. An update takes
    `seconds`."""

    def __init__(self, *results: Exception | RequestResult, seconds: float = 0.0) -> None:
        self._results = list(results)
        self._seconds = seconds
        self.running: Counter[str] = Counter()
        self.max_running: Counter[str] = Counter()
        self.update_ids: list[str] = []

    def get_workflow_handle(self, workflow_id: str) -> "FakeHandle":
        return FakeHandle(self, workflow_id)

    async def update(self, workflow_id: str, update_id: str) -> RequestResult:
        self.update_ids.append(update_id)
        self.running[workflow_id] += 1
        self.max_running[workflow_id] = max(self.max_running[workflow_id], self.running[workflow_id])
        await asyncio.sleep(self._seconds)
        self.running[workflow_id] -= 1
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        if isinstance(result, Exception):
            raise result
        return result


class FakeHandle:
    def __init__(self, temporal: FakeTemporal, workflow_id: str) -> None:
        self._temporal, self._workflow_id = temporal, workflow_id

    async def execute_update(self, _name: str, _request: object, **options: Any) -> RequestResult:
        return await self._temporal.update(self._workflow_id, options["id"])


def updates_of(temporal: FakeTemporal) -> OrderUpdates:
    return OrderUpdates(cast(Client, temporal), NO_DATABASE)


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_updates, "RETRY_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(order_updates, "UPDATE_TIMEOUT", timedelta(seconds=0.9))
    # There is no database to check.
    monkeypatch.setattr(timeouts, "CHECK_INTERVAL_SECONDS", 3_600.0)


@pytest.mark.parametrize(
    "error",
    [not_ready(), rejected(RPCStatusCode.UNAVAILABLE), rejected(RPCStatusCode.RESOURCE_EXHAUSTED)],
    ids=["not ready", "aborted", "too many"],
)
async def test_an_update_that_temporal_did_not_process_is_repeated_with_the_same_id(error: RPCError) -> None:
    temporal = FakeTemporal(error, error, ACCEPTED)
    assert await updates_of(temporal).execute("o", CANCEL, None) == ACCEPTED
    assert len(temporal.update_ids) == 3
    assert len(set(temporal.update_ids)) == 1


async def test_the_number_of_simultaneous_updates_of_an_order_is_limited() -> None:
    temporal = FakeTemporal(ACCEPTED, seconds=0.001)
    updates = updates_of(temporal)
    results = await asyncio.gather(*(updates.execute("o", CANCEL, None) for _ in range(80)))
    assert results == [ACCEPTED] * 80
    assert temporal.max_running["order-o"] == SIMULTANEOUS_UPDATES
    assert len(set(temporal.update_ids)) == 80


async def test_requests_about_one_order_do_not_delay_those_about_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order_updates, "UPDATE_TIMEOUT", timedelta(minutes=1))
    updates = updates_of(FakeTemporal(ACCEPTED, seconds=0.05))
    busy = [asyncio.create_task(updates.execute("busy", CANCEL, None)) for _ in range(30)]
    await asyncio.sleep(0)
    assert await updates.execute("other", CANCEL, None) == ACCEPTED
    assert sum(task.done() for task in busy) <= len(busy) / 2
    assert await asyncio.gather(*busy) == [ACCEPTED] * len(busy)


async def test_a_request_that_others_delay_for_too_long_is_not_sent() -> None:
    temporal = FakeTemporal(ACCEPTED)
    updates = updates_of(temporal)
    taken = asyncio.Semaphore(0)
    updates._slots["o"] = taken
    with pytest.raises(errors.Overloaded, match="too many requests about this order at the same time"):
        await updates.execute("o", CANCEL, None)
    assert temporal.update_ids == []


@pytest.mark.parametrize(
    ("temporal", "expected", "message"),
    [
        (
            FakeTemporal(rejected(RPCStatusCode.RESOURCE_EXHAUSTED)),
            errors.Overloaded,
            "too many requests about this order",
        ),
        (
            FakeTemporal(rejected(RPCStatusCode.UNAVAILABLE)),
            errors.TemporalUnavailable,
            "Temporal has not processed the request in time; the order may still process it",
        ),
        (
            FakeTemporal(ACCEPTED, seconds=10),
            errors.ServiceUnavailable,
            "no worker has responded for the order; it may still process the request",
        ),
    ],
    ids=["too many", "aborted", "no worker"],
)
async def test_an_update_that_is_not_processed_in_time_names_its_cause(
    temporal: FakeTemporal, expected: type[Exception], message: str
) -> None:
    with pytest.raises(expected, match=message):
        await updates_of(temporal).execute("o", CANCEL, None)


async def test_an_order_with_too_many_requests_is_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = ApplicationError("this order has received 200 requests", type=TOO_MANY_REQUESTS)
    client = cast(Client, FakeTemporal(WorkflowUpdateFailedError(failure)))

    async def no_earlier_request(*_: object) -> None:
        return None

    monkeypatch.setattr(order_details, "accepted_request", no_earlier_request)
    service = OrderService(Settings(), NO_DATABASE, client, Admission(Settings(), NO_DATABASE))
    with pytest.raises(errors.Overloaded, match="200 requests"):
        await service.send_request("o", CANCEL)
