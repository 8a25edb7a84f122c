"""Checks before the stack starts. Each error message says how to correct the cause."""

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.embedded.component import ListeningPort
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.process_table import POLL_SECONDS, listening_process
from orchestrator.errors import StackError
from orchestrator.startup import Finding

PORT_RELEASE_SECONDS = 3.0
"""The kernel can keep the port of a killed process for a moment."""

FREE_BYTES_NEEDED = 300 * 1024 * 1024
"""Before the first order, PostgreSQL's data takes 40 MB and its WAL 80 MB."""


def make_directories(layout: Layout) -> None:
    """Create ORDERS_HOME and its directories. Raises StackError if that fails."""
    home = layout.home
    try:
        if home.exists() and not home.is_dir():
            raise StackError(f"ORDERS_HOME ({home}) is a file; set ORDERS_HOME to a directory.")
        for directory in (home, layout.control, layout.logs):
            directory.mkdir(parents=True, exist_ok=True)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
        _make_socket_directory(layout.sockets)
    except OSError as error:
        raise _cannot_write(layout, error) from error


def _make_socket_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Outside of ORDERS_HOME, another user may have created a directory of this name.
    owner = directory.lstat().st_uid
    if directory.is_symlink() or os.geteuid() not in (0, owner):
        raise StackError(
            f"The directory {directory} belongs to another user; "
            "remove it, or set ORDERS_HOME to another directory."
        )
    # If root starts the stack, PostgreSQL runs as another user and needs access.
    directory.chmod(0o711 if os.geteuid() == 0 else 0o700)


@contextmanager
def filesystem_errors(layout: Layout) -> Iterator[None]:
    """Convert errors of a full, read-only or inaccessible disk to StackError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise _cannot_write(layout, error) from error
        raise


def _cannot_write(layout: Layout, error: OSError) -> StackError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StackError(
            f"The disk of ORDERS_HOME ({layout.home}) is full; "
            "free some space, or set ORDERS_HOME to another disk."
        )
    return StackError(
        f"ORDERS_HOME ({layout.home}) cannot be written: {error.strerror} ({error.filename}); "
        "give this user the right to write there, or set ORDERS_HOME to another directory."
    )


def check_disk(layout: Layout) -> None:
    """Raises StackError if less than FREE_BYTES_NEEDED is free."""
    free = shutil.disk_usage(layout.home).free
    if free < FREE_BYTES_NEEDED:
        raise StackError(
            f"The disk of ORDERS_HOME ({layout.home}) has {free // 2**20} MB free and "
            f"{FREE_BYTES_NEEDED // 2**20} MB are needed; free some space, or set ORDERS_HOME to another "
            "disk."
        )


def check_ports(ports: Sequence[ListeningPort]) -> None:
    """Raises StackError if a port cannot be used, or is set twice."""
    for finding in port_findings(ports, release_seconds=PORT_RELEASE_SECONDS):
        raise StackError(f"{finding.message} {finding.advice}")


def port_findings(ports: Sequence[ListeningPort], release_seconds: float = 0.0) -> Iterator[Finding]:
    """Yield a finding for each port that cannot be used or is set twice. Wait up to `release_seconds` for a
    used port that no process holds."""
    by_number: dict[int, ListeningPort] = {}
    for port in ports:
        other = by_number.setdefault(port.number, port)
        if other is not port:
            yield Finding(
                "port-set-twice",
                f"Port {port.number} is set for {other.purpose} ({other.setting}) and for {port.purpose} "
                f"({port.setting}).",
                "Set one of them to another port.",
            )
    for port in by_number.values():
        yield from _port_findings(port, release_seconds)


def _port_findings(port: ListeningPort, release_seconds: float) -> Iterator[Finding]:
    error = _bind_error(port)
    if error is None:
        return
    if isinstance(error, PermissionError):
        yield Finding(
            "port-reserved",
            f"Port {port.number} for {port.purpose} is reserved for root.",
            f"Set {port.setting} to a port above 1023.",
        )
    elif error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        yield Finding(
            "address-unknown",
            f"BIND_ADDRESS ({port.address}) is not an address of this machine.",
            "Set it to 127.0.0.1, 0.0.0.0 or an address of this machine.",
        )
    elif error.errno != errno.EADDRINUSE:
        raise error
    else:
        process = listening_process(port.number)
        # Without a process, a killed one still holds the port for a moment.
        if not process and release_seconds > 0:
            time.sleep(POLL_SECONDS)
            yield from _port_findings(port, release_seconds - POLL_SECONDS)
            return
        yield Finding(
            "port-taken",
            f"Port {port.number} for {port.purpose} is in use{f' by {process}' if process else ''}.",
            f"Free it, set {port.setting} to another port, or move all ports with PORT_BASE.",
        )


def _bind_error(port: ListeningPort) -> OSError | None:
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections in TIME_WAIT of an earlier stack do not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.address, port.number))
        except OSError as error:
            return error
    return None
