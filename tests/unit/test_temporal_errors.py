"""How errors of the Temporal SDK are translated."""

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure, NotFoundFailure
from temporalio.service import RPCError, RPCStatusCode

from orchestrator.errors import TemporalUnavailable
from orchestrator.temporal_client import temporal_errors


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
    "original",
    [error(RPCStatusCode.NOT_FOUND, NotFoundFailure()), error(RPCStatusCode.NOT_FOUND)],
)
def test_an_unknown_workflow_is_not_an_unavailable_server(original: RPCError) -> None:
    with pytest.raises(RPCError) as raised, temporal_errors():
        raise original
    assert raised.value is original
