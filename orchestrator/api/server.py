"""Serving the API on its port."""

import asyncio
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
import uvloop

from orchestrator.api.app import create_app
from orchestrator.api.http_limits import MAX_CONNECTIONS, BoundedProtocol
from orchestrator.errors import UsageError
from orchestrator.observability import logs
from orchestrator.security import bind_policy
from orchestrator.settings import Settings

SHUTDOWN_SECONDS = 1
KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections, so that none meets one that is just closing."""

OTHER_FILES = 200
"""What the process has open beside its clients' connections, and more."""

log = structlog.get_logger()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As the original, but the signal is not raised again at the end: having served is success."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets go of requests that are held for an outcome, then ends as usual."""
        self.config.loaded_app.state.context.watch.close()
        await super().shutdown(sockets)


def run(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM, then ends within 2 s. Raises UsageError when the port is taken, or the
    address needs keys and there are none."""
    logs.configure(settings, "api")
    bind_policy.require_api_keys(settings, "the API")
    _make_room_for_connections()
    listener = _listen(settings.bind_address, settings.port("api"))
    config = uvicorn.Config(
        create_app(settings),
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    log.info("api started", address=settings.bind_address, port=settings.port("api"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Server(config).serve(sockets=[listener]))
    log.info("api stopped")


def _make_room_for_connections() -> None:
    """Each is an open file, of which a process is allowed few unless it asks for more."""
    wanted = MAX_CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


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
