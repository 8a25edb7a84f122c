"""How errors of the Temporal SDK are translated."""

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure, NotFoundFailure
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.api.problem_details import status_of
from orchestrator.errors import (
    TemporalAccessDenied,
    TemporalBusy,
    TemporalFailed,
    TemporalUnavailable,
)
from orchestrator.temporal.client import temporal_errors


def error(status: RPCStatusCode, *details: Message) -> RPCError:
    packed = []
    for detail in details:
        packed.append(Any())
        packed[-1].Pack(detail)
    return RPCError("error", status, GrpcStatus(code=status.value, details=packed).SerializeToString())


@pytest.mark.parametrize(
    "original",
    [
        error(RPCStatusCode.UNAVAILABLE),
        error(RPCStatusCode.DEADLINE_EXCEEDED),
        error(RPCStatusCode.NOT_FOUND, NamespaceNotFoundFailure(namespace="default")),
    ],
)
def test_connection_errors_become_temporal_unavailable(original: RPCError) -> None:
    with pytest.raises(TemporalUnavailable), temporal_errors():
        raise original


@pytest.mark.parametrize(
    ("status", "expected", "http_status"),
    [
        (RPCStatusCode.CANCELLED, TemporalUnavailable, 503),
        (RPCStatusCode.RESOURCE_EXHAUSTED, TemporalBusy, 429),
        (RPCStatusCode.INTERNAL, TemporalFailed, 503),
        (RPCStatusCode.UNKNOWN, TemporalFailed, 503),
        (RPCStatusCode.ABORTED, TemporalFailed, 503),
        (RPCStatusCode.DATA_LOSS, TemporalFailed, 503),
        (RPCStatusCode.UNAUTHENTICATED, TemporalAccessDenied, 503),
        (RPCStatusCode.PERMISSION_DENIED, TemporalAccessDenied, 503),
    ],
    ids=str,
)
def test_a_status_is_translated_into_its_cause(
    status: RPCStatusCode, expected: type[Exception], http_status: int
) -> None:
    with pytest.raises(TemporalUnavailable) as raised, temporal_errors():
        raise error(status)
    assert type(raised.value) is expected
    assert status_of(raised.value) == http_status


@pytest.mark.parametrize(
    "status",
    [
        RPCStatusCode.INVALID_ARGUMENT,
        RPCStatusCode.FAILED_PRECONDITION,
        RPCStatusCode.ALREADY_EXISTS,
        RPCStatusCode.OUT_OF_RANGE,
        RPCStatusCode.UNIMPLEMENTED,
    ],
    ids=str,
)
def test_a_status_about_the_request_is_left_to_the_caller(status: RPCStatusCode) -> None:
    with pytest.raises(RPCError), temporal_errors():
        raise error(status)


@pytest.mark.parametrize(
    "original",
    [error(RPCStatusCode.NOT_FOUND, NotFoundFailure()), error(RPCStatusCode.NOT_FOUND)],
)
def test_an_unknown_workflow_is_not_an_unavailable_server(original: RPCError) -> None:
    with pytest.raises(RPCError) as raised, temporal_errors():
        raise original
    assert raised.value is original
