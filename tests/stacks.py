"""Separate stacks for tests, and the processes that belong to them."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from orchestrator.embedded import Stack, Stage, components, postgres
from orchestrator.errors import StackError
from orchestrator.settings import STACK_MARKER, Settings
from tests import secrets
from tests.directories import temporary_directory
from tests.ports import free_port_base

FOREIGN_VARIABLES = {
    "PGHOST": "127.0.0.1",
    "PGHOSTADDR": "127.0.0.1",
    "PGPORT": "5433",
    "PGUSER": "other",
    "PGDATABASE": "other",
    "PGSERVICE": "other",
    "PGOPTIONS": "-c search_path=other",
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "system",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGDATA": "/nowhere",
    "DBMATE_DRIVER": "mysql",
    "DBMATE_MIGRATIONS_TABLE": "other",
    "DATABASE_NAME": "other",
    "TEMPORAL_TLS": "true",
    "TEMPORAL_API_KEY": secrets.TEMPORAL_API_KEY,
    "TEMPORAL_PORT": "tcp://10.96.0.13:7233",
    "API_PORT": "tcp://10.96.0.13:80",
    "OTEL_TRACES_EXPORTER": "console",
    "GOMEMLIMIT": "other",
    "STREAMLIT_SERVER_PORT": "1",
    "STREAMLIT_SERVER_SSL_CERT_FILE": "/nowhere",
    "WEB_CONCURRENCY": "7",
    "UVICORN_PORT": "1",
    "http_proxy": "http://127.0.0.1:1",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "LC_ALL": "xx_XX.ISO-8859-1",
    "TZ": "Asia/Kathmandu",
}
"""Variables of other programs, each with a value that breaks or redirects a component that uses it."""


def stack_settings(home: Path) -> Settings:
    return Settings(
        orders_home=home,
        port_base=free_port_base(),
        database_url=None,
        temporal_address=None,
        temporal_host=None,
        order_workers=1,
        shipping_workers=1,
        payload_keys=f"tests:{secrets.PAYLOAD_KEY}",
        stripe_api_key=SecretStr(secrets.STRIPE_API_KEY),
        http_gateway_token=SecretStr(secrets.GATEWAY_TOKEN),
    )


def without_clients(settings: Settings) -> Stack:
    """A stack without dashboard and load generator, which starts in half the time."""
    return Stack(
        settings,
        [component for component in components.components(settings) if component.stage < Stage.CLIENTS],
    )


@contextmanager
def stopped(stack: Stack, name: str) -> Iterator[None]:
    """Stop a component, and start it at the end."""
    stack.stop(name)
    try:
        yield
    finally:
        stack.start(name)


@contextmanager
def frozen(stack: Stack, name: str) -> Iterator[None]:
    """Suspend a component: it is running and does not respond."""
    stack.kill(name, signal.SIGSTOP)
    try:
        yield
    finally:
        stack.kill(name, signal.SIGCONT)


@contextmanager
def temporary_home(prefix: str) -> Iterator[Path]:
    """An ORDERS_HOME that is removed at the end, with all its processes."""
    with temporary_directory(prefix) as home:
        try:
            yield home
        finally:
            Stack(stack_settings(home)).down()


def processes_in(home: Path) -> list[str]:
    """Return the running processes of a stack or of PostgreSQL in this directory."""
    found = [f"{process.pid} postgres" for process in postgres.servers_on(home / "postgres")]
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(STACK_MARKER) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.cmdline()}")
    return found


def refusal(stack: Stack) -> str:
    """Return the message with which the stack refuses to start. No process may remain."""
    with pytest.raises(StackError) as refused:
        stack.up()
    assert processes_in(stack.settings.home) == []
    return str(refused.value)


@contextmanager
def killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()
