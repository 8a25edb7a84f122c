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
    """Raises StackError if a port is in use, or set twice."""
    by_number: dict[int, ListeningPort] = {}
    for port in ports:
        if port.number in by_number:
            other = by_number[port.number]
            raise StackError(
                f"Port {port.number} is set for {other.use} ({other.setting}) and for {port.use} "
                f"({port.setting}); set one of them to another port."
            )
        by_number[port.number] = port
    for port in ports:
        _check_port(port)


def _check_port(port: ListeningPort) -> None:
    not_after = time.monotonic() + PORT_RELEASE_SECONDS
    while not _is_free(port):
        process = listening_process(port.number)
        # Without a process, a killed one still holds the port for a moment.
        if process or time.monotonic() > not_after:
            raise StackError(
                f"Port {port.number} for {port.use} is in use{f' by {process}' if process else ''}; "
                f"free it, set {port.setting} to another port, or move all ports with PORT_BASE."
            )
        time.sleep(POLL_SECONDS)


def _is_free(port: ListeningPort) -> bool:
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections in TIME_WAIT of an earlier stack do not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.address, port.number))
        except PermissionError:
            raise StackError(
                f"Port {port.number} for {port.use} is reserved for root; "
                f"set {port.setting} to a port above 1023."
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
                raise StackError(
                    f"BIND_ADDRESS ({port.address}) is not an address of this machine."
                ) from None
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True
