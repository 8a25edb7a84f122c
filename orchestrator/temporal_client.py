"""The connection to Temporal, read with the SDK's own environment configuration."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure, WorkflowNotReadyFailure
from temporalio.client import Client, Interceptor
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.runtime import Runtime
from temporalio.service import KeepAliveConfig, RetryConfig, RPCError, RPCStatusCode

from orchestrator.errors import SettingsError, TemporalUnavailable
from orchestrator.security.payload_codec import data_converter
from orchestrator.security.payload_keys import PayloadKeys
from orchestrator.settings import Settings

RPC_TIMEOUT = timedelta(milliseconds=1_500)
"""Bound of one request to Temporal, so that the API answers 503 in under 2 s."""

KEEP_ALIVE = KeepAliveConfig(interval_millis=11_000, timeout_millis=6_000)
"""When a silent connection is given up and made anew. The SDK's own 30 s and 15 s keep a worker away for up
to a minute after a network failure; more often than every 10 s the server does not let itself be asked."""

_AWAY = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
)


async def connect(
    settings: Settings,
    *,
    identity: str | None = None,
    lazy: bool = False,
    runtime: Runtime | None = None,
    retry_config: RetryConfig | None = None,
    interceptors: Sequence[Interceptor] = (),
) -> Client:
    """Connects to the configured server: TLS, API key and profile come from `TEMPORAL_*`.

    What it sends is encrypted when there are `PAYLOAD_KEYS`. With `lazy`, the connection is made on first
    use. `retry_config` says how long a call is repeated while nobody answers: 10 s by default. Raises
    TemporalUnavailable when the server does not answer, and SettingsError.
    """
    with temporal_errors():
        return await Client.connect(
            **connection(settings),
            identity=identity,
            lazy=lazy,
            runtime=runtime,
            retry_config=retry_config,
            interceptors=interceptors,
            keep_alive_config=KEEP_ALIVE,
            data_converter=data_converter(PayloadKeys.parse(settings.payload_keys)),
        )


def connection(settings: Settings) -> ClientConnectConfig:
    """Where and how to connect. What the settings name outweighs the profile.

    The embedded server is met as it was started: a profile that lies about for other programs must not turn
    its clients elsewhere, or add a key. Raises SettingsError when the profile cannot be read or has no
    address.
    """
    if settings.uses_embedded_temporal:
        return {"target_host": settings.temporal_target, "namespace": settings.temporal_namespace}
    file = settings.temporal_config_file
    try:
        config = ClientConfig.load_client_connect_config(
            settings.temporal_profile, config_file=None if file is None else str(file)
        )
    except (RuntimeError, ValueError) as error:
        raise SettingsError(f"Temporal's client configuration cannot be read: {error}") from error
    if settings.external_temporal_address is not None:
        config["target_host"] = settings.external_temporal_address
    if settings.given_temporal_namespace is not None or "namespace" not in config:
        config["namespace"] = settings.temporal_namespace
    if "target_host" not in config:
        raise SettingsError("The Temporal profile has no address; add one, or set TEMPORAL_ADDRESS.")
    return config


@contextmanager
def temporal_errors() -> Iterator[None]:
    """Turns the SDK's words for 'no server there' into TemporalUnavailable; other errors pass through.

    So a NOT_FOUND that passes is about what was asked for. A server that has just come up does not know its
    namespace yet, and says so with the same status: that is one who is away.
    """
    try:
        yield
    except RPCError as error:
        if error.status in _AWAY or _knows_no_namespace(error):
            raise TemporalUnavailable from error
        raise
    except RuntimeError as error:
        # What `Client.connect` and lazy clients raise when there is nobody to connect to.
        if "connect" in str(error).lower() or "transport" in str(error).lower():
            raise TemporalUnavailable from error
        raise


def is_not_ready(error: RPCError) -> bool:
    """Whether a running workflow was not asked at all, because its task has just failed and is to be done
    again: then it can be asked again in a moment."""
    return any(detail.Is(WorkflowNotReadyFailure.DESCRIPTOR) for detail in error.grpc_status.details)


def _knows_no_namespace(error: RPCError) -> bool:
    details = error.grpc_status.details
    return any(detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in details)
