"""Serves the API on its port.

uvicorn limits the size of a request head and the number of connections. It has no time limit for a slow
request: beyond the loopback interface, run a reverse proxy in front
(orchestrator/deployment/nginx/orders.conf).
"""

import asyncio
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import structlog
import uvicorn
import uvloop

from orchestrator.api.app import create_app
from orchestrator.api.context import Context
from orchestrator.errors import DatabaseError, UsageError
from orchestrator.observability import logs
from orchestrator.security import bind_policy
from orchestrator.settings import Settings
from orchestrator.startup import refuse
from orchestrator.startup.configuration import configuration_findings, gateway_findings
from orchestrator.startup.database import check_database
from orchestrator.startup.servers import (
    run_check,
    wait_for_api_keys,
    wait_for_database,
    wait_for_task_queues,
    wait_for_temporal,
)

MAX_HEAD_BYTES = 32 * 1024
MAX_CONNECTIONS = 2_000
"""Twice the default MAX_IN_FLIGHT: each order in flight may have a client that waits on a connection of its
own."""

KEEP_ALIVE_SECONDS = 75
"""Longer than common clients keep idle connections, so that no client reuses a connection that is closing."""

SHUTDOWN_SECONDS = 1
OTHER_OPEN_FILES = 200
"""Upper bound of the process's open files besides client connections."""

UVICORN_OPTIONS: dict[str, Any] = {
    # httptools takes 55 µs per request and h11 140 µs, but httptools has no limit on the size of a head.
    "http": "h11",
    "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
    "limit_concurrency": MAX_CONNECTIONS,
    "timeout_keep_alive": KEEP_ALIVE_SECONDS,
    "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
    "ws": "none",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
}

log = structlog.get_logger()


class _Server(uvicorn.Server):
    refusal: UsageError | None = None
    """The failed start-up check that ended the server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM, without uvicorn's second raise of the signal: the exit code stays 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._checking = asyncio.create_task(self._check_servers(self.config.loaded_app.state.context))

    async def _check_servers(self, context: Context) -> None:
        """Run the start-up checks as soon as the servers are available, and exit if one fails."""
        try:
            await wait_for_database(context.settings)
            await wait_for_api_keys(context.settings, "the API")
            await wait_for_temporal(context.client)
            queues = (context.settings.order_task_queue, context.settings.shipping_task_queue)
            await wait_for_task_queues(context.client, context.database, queues)
        except UsageError as error:
            self.refusal = error
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the long polls, so that their requests return, then shut down."""
        self._checking.cancel()
        self.config.loaded_app.state.context.outcomes.close()
        await super().shutdown(sockets)


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then exit within 2 s.

    Raises UsageError when the port is taken, when the address needs API keys and none exist, and when a
    start-up check fails. While a server is unavailable, the API serves and the check waits.
    """
    logs.configure(settings, "api")
    refuse(configuration_findings(settings))
    refuse(gateway_findings(settings))
    with suppress(DatabaseError):
        refuse(run_check(check_database(settings)))
        bind_policy.require_api_keys(settings, "the API")
    _raise_open_file_limit()
    listener = _listen(settings.bind_address, settings.port("api"))
    config = uvicorn.Config(create_app(settings), lifespan="on", **UVICORN_OPTIONS)
    log.info("api started", address=settings.bind_address, port=settings.port("api"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        server = _Server(config)
        runner.run(server.serve(sockets=[listener]))
    if server.refusal is not None:
        raise server.refusal
    log.info("api stopped")


def _raise_open_file_limit() -> None:
    """Raise the soft limit of open files: each connection is one."""
    wanted = MAX_CONNECTIONS + OTHER_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"port {port} cannot be used on {address} ({error.strerror}); set API_PORT or BIND_ADDRESS"
        ) from error
    return listener
