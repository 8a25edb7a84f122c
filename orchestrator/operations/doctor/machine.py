"""Findings about the embedded stack, its ports and its disk."""

import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from orchestrator.embedded import Stack, components, postgres, preflight
from orchestrator.embedded.component import ListeningPort
from orchestrator.embedded.layout import Layout
from orchestrator.errors import UsageError
from orchestrator.operations.doctor.report import Report
from orchestrator.security import certificates
from orchestrator.settings import Settings
from orchestrator.startup import Finding

RESTART_WINDOW_MINUTES = 10
MAX_RESTARTS = 3

DISK_BYTES = 1_000_000_000
DISK_SHARE = 0.05
DISK_SHARE_APPLIES_BELOW_BYTES = 20_000_000_000
"""5 % of a large disk is still enough space."""

CONNECT_SECONDS = 0.2
API_SECONDS = 3.0


def needs_stack(stack: Stack, settings: Settings) -> bool:
    """Return False if both servers are external, so that no embedded stack is expected."""
    return settings.uses_embedded_postgres or settings.uses_embedded_temporal or stack.has_died()


def check(stack: Stack, settings: Settings, *, is_up: bool) -> Report:
    """Check the stack, its ports and the disk."""
    report = Report()
    if is_up or needs_stack(stack, settings):
        ports = [port for component in components.components(settings) for port in component.ports]
        report.findings += stack_findings(stack, settings, is_up)
        report.findings += port_findings(ports, is_up)
        if is_up:
            report.measurements.append(f"stack     {len(stack.processes())} components, {len(ports)} ports")
    path = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    usage = shutil.disk_usage(path)
    report.findings += disk_findings(path, usage.free, usage.total)
    report.measurements.append(f"disk      {usage.free / 1e9:.0f} GB free of {usage.total / 1e9:.0f} GB")
    return report


def stack_findings(stack: Stack, settings: Settings, is_up: bool) -> Iterator[Finding]:
    layout = Layout(settings)
    if is_up:
        for process in stack.processes():
            since = datetime.now(UTC) - timedelta(minutes=RESTART_WINDOW_MINUTES)
            restarts = sum(at > since for at in stack.restarted_at(process.name))
            if not process.is_alive:
                yield Finding(
                    "component-down",
                    f"{process.name} is not running ({process.state.lower()}).",
                    f"Read {layout.log(process.name)}, then restart the stack: make down, make up.",
                )
            elif restarts >= MAX_RESTARTS:
                yield Finding(
                    "component-restarting",
                    f"{process.name} restarted {restarts} times in the last "
                    f"{RESTART_WINDOW_MINUTES} minutes.",
                    f"Read in {layout.log(process.name)} why it exits.",
                )
        return
    if stack.has_died():
        yield Finding(
            "stack-died",
            "The process supervisor was killed, and the stack with it.",
            "Start the stack: make up. No order is lost; orders in progress continue.",
        )
    else:
        yield Finding("stack-down", f"No stack is running in {settings.home}.", "Start it: make up.")
    files = (layout.supervisor_socket, layout.supervisor_pid, postgres.socket_path(layout))
    orphans = [f"the file {file}" for file in files if file.exists() or file.is_symlink()]
    servers = postgres.servers_on(layout.postgres_data)
    orphans += [f"process {server.pid} (postgres)" for server in servers[:1]]
    for orphan in orphans:
        yield Finding(
            "orphan",
            f"A killed stack left {orphan}.",
            "make down removes it, and so does the next make up.",
            "notice",
        )


def port_findings(ports: list[ListeningPort], is_up: bool) -> Iterator[Finding]:
    if not is_up:
        yield from preflight.port_findings(ports)
        return
    for port in ports:
        if not has_listener(port):
            yield Finding(
                "port-closed",
                f"No process listens on port {port.number} ({port.purpose}).",
                "Check whether its component is running: orders ps.",
            )


def has_listener(port: ListeningPort) -> bool:
    try:
        with socket.create_connection((port.address, port.number), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def disk_findings(path: Path, free_bytes: int, total_bytes: int) -> Iterator[Finding]:
    is_small_share = free_bytes < total_bytes * DISK_SHARE
    if free_bytes < DISK_BYTES or (is_small_share and free_bytes < DISK_SHARE_APPLIES_BELOW_BYTES):
        yield Finding(
            "disk-full",
            f"The disk of {path} is nearly full: {free_bytes / 1e9:.1f} GB free of "
            f"{total_bytes / 1e9:.0f} GB.",
            "Free some space. Deleting old events lets PostgreSQL reuse their space: "
            "orders retention --keep 90d.",
        )


async def check_api(settings: Settings, *, is_embedded: bool) -> Report:
    """Check that the API sends any HTTP response."""
    try:
        context = certificates.client_context(settings.api_url)
        async with httpx.AsyncClient(timeout=API_SECONDS, trust_env=False, verify=context) as client:
            await client.get(f"{settings.api_url}/health")
    except UsageError as error:
        return Report([Finding("api-unavailable", f"{error}.", "Correct the variable.")])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if (problem := certificates.rejection(error)) is not None:
            text = f"The certificate of the API is rejected: {problem}."
            return Report([Finding("api-unavailable", text, "Correct API_URL or the certificate.")])
        advice = (
            f"Read {Layout(settings).log('api')}. Restart the API: orders kill api."
            if is_embedded
            else "Start it, or set API_URL to its address."
        )
        return Report([Finding("api-unavailable", "The API does not respond.", advice)])
    return Report()
