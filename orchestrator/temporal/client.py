"""The connection to Temporal, configured by the SDK's own environment variables and profiles."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure, WorkflowNotReadyFailure
from temporalio.api.workflowservice.v1 import GetClusterInfoRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.service import KeepAliveConfig, RPCError, RPCStatusCode

from db.domain import TemporalNamespace
from orchestrator.errors import (
    SettingsError,
    TemporalAccessDenied,
    TemporalBusy,
    TemporalFailed,
    TemporalUnavailable,
)
from orchestrator.security.key_hashing import is_token
from orchestrator.security.payload_codec import data_converter
from orchestrator.security.payload_keys import PayloadKeys
from orchestrator.settings import Settings

RPC_TIMEOUT = timedelta(milliseconds=1_500)
"""Timeout of one request to Temporal, so that the API returns 503 in under 2 s."""

KEEP_ALIVE = KeepAliveConfig(interval_millis=11_000, timeout_millis=6_000)
"""gRPC keepalive. With the SDK's defaults of 30 s and 15 s a worker reconnects up to a minute after a network
failure; the server rejects pings more often than every 10 s."""

_ERRORS: dict[RPCStatusCode, type[TemporalUnavailable]] = {
    RPCStatusCode.UNAVAILABLE: TemporalUnavailable,
    RPCStatusCode.DEADLINE_EXCEEDED: TemporalUnavailable,
    RPCStatusCode.CANCELLED: TemporalUnavailable,
    RPCStatusCode.RESOURCE_EXHAUSTED: TemporalBusy,
    RPCStatusCode.INTERNAL: TemporalFailed,
    RPCStatusCode.UNKNOWN: TemporalFailed,
    RPCStatusCode.ABORTED: TemporalFailed,
    RPCStatusCode.DATA_LOSS: TemporalFailed,
    RPCStatusCode.UNAUTHENTICATED: TemporalAccessDenied,
    RPCStatusCode.PERMISSION_DENIED: TemporalAccessDenied,
}
"""The other statuses are about the request or its object: the caller handles them."""


async def connect(settings: Settings, **options: Any) -> Client:
    """Connect to the configured server: TLS, API key and profile come from `TEMPORAL_*`.

    `options` are further arguments of `Client.connect`. Payloads are encrypted if `PAYLOAD_KEYS` is set.
    Raises TemporalUnavailable and SettingsError.
    """
    with temporal_errors():
        return await Client.connect(
            **connection(settings),
            **options,
            keep_alive_config=KEEP_ALIVE,
            data_converter=data_converter(PayloadKeys.parse(settings.payload_keys)),
        )


def connection(settings: Settings) -> ClientConnectConfig:
    """Return the connection parameters. Settings take precedence over the profile.

    For the embedded server the profile is ignored: a profile of other programs must not redirect its clients
    or add an API key. Raises SettingsError if the profile cannot be read or has no address.
    """
    if settings.uses_embedded_temporal:
        return {"target_host": settings.temporal_target, "namespace": settings.temporal_namespace}
    file = settings.temporal_config_file
    try:
        config = ClientConfig.load_client_connect_config(
            settings.temporal_profile, config_file=None if file is None else str(file)
        )
    except (RuntimeError, ValueError) as error:
        # Further lines quote the file, which can have a key. So would a traceback with the cause.
        reason = str(error).partition("\n")[0]
        raise SettingsError(f"Temporal's client configuration cannot be read: {reason}") from None
    except OSError as error:
        raise SettingsError(
            f"User {os.geteuid()} cannot read {error.filename} of Temporal's client configuration: "
            f"{error.strerror}; correct the path, or the owner and mode of the file"
        ) from None
    if (key := config.get("api_key")) is not None:
        config["api_key"] = key.strip()
        if not is_token(config["api_key"]):
            # The SDK would send no key.
            raise SettingsError(
                "TEMPORAL_API_KEY, or api_key of the profile, contains a space, a quotation mark or another "
                "character that no key has; correct it"
            )
    if settings.external_temporal_address is not None:
        config["target_host"] = settings.external_temporal_address
    if settings.configured_temporal_namespace is not None or "namespace" not in config:
        config["namespace"] = settings.temporal_namespace
    if "target_host" not in config:
        raise SettingsError("The Temporal profile has no address; add one, or set TEMPORAL_ADDRESS.")
    return config


@contextmanager
def temporal_errors() -> Iterator[None]:
    """Translate errors of the server and the SDK into TemporalUnavailable and its subclasses. Errors about a
    request pass through.

    A server that has just started returns NOT_FOUND for its namespace: that counts as unavailable. Any other
    NOT_FOUND is about the requested object.
    """
    try:
        yield
    except RPCError as error:
        if _is_namespace_unknown(error):
            raise TemporalUnavailable from error
        if error.status in _ERRORS:
            raise _ERRORS[error.status] from error
        raise
    except RuntimeError as error:
        # `Client.connect` and lazy clients raise RuntimeError when they cannot connect.
        if (rejected := re.search(r"InvalidCertificate\((\w+)", str(error))) is not None:
            raise TemporalUnavailable(
                f"the certificate of the Temporal server is rejected: {rejected[1]}; check "
                "TEMPORAL_TLS_SERVER_CA_CERT_PATH and TEMPORAL_TLS_SERVER_NAME"
            ) from error
        if "connect" in str(error).lower() or "transport" in str(error).lower():
            raise TemporalUnavailable from error
        raise


async def temporal_namespace(client: Client) -> TemporalNamespace:
    """Return the namespace and the id of the server's cluster. Raises TemporalUnavailable."""
    with temporal_errors():
        cluster = await client.workflow_service.get_cluster_info(
            GetClusterInfoRequest(), retry=False, timeout=RPC_TIMEOUT
        )
    return TemporalNamespace(cluster.cluster_id, client.namespace)


def is_not_ready(error: RPCError) -> bool:
    """Return whether a query or update was not delivered because the workflow task is being retried.

    The caller can retry shortly."""
    return any(detail.Is(WorkflowNotReadyFailure.DESCRIPTOR) for detail in error.grpc_status.details)


def _is_namespace_unknown(error: RPCError) -> bool:
    details = error.grpc_status.details
    return any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in details)
