"""What must hold before anything is started; each refusal is one sentence and its mend."""

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from orchestrator.embedded.component import ListeningPort
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.process_wait import POLL_SECONDS
from orchestrator.errors import StackError

DYING_SECONDS = 3.0
"""How long a port may be held by a process that is not there any more."""

FREE_BYTES_NEEDED = 300 * 1024 * 1024
"""PostgreSQL's fresh data is 40 MB and its log of changes 80 MB before the first order."""


def make_directories(layout: Layout) -> None:
    """Makes ORDERS_HOME and what is in it. Raises StackError when that is not possible."""
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
    # Gateways ORDERS_HOME it has a name that others may guess and make first.
    owner = directory.lstat().st_uid
    if directory.is_symlink() or os.geteuid() not in (0, owner):
        raise StackError(
            f"The directory {directory} belongs to another user; "
            "remove it, or set ORDERS_HOME to another directory."
        )
    # Root alone shares it, with PostgreSQL's user.
    directory.chmod(0o711 if os.geteuid() == 0 else 0o700)


@contextmanager
def filesystem_errors(layout: Layout) -> Iterator[None]:
    """Turns a full, read-only or forbidden disk into a StackError."""
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
    """Raises StackError when there is too little space to start without damage."""
    free = shutil.disk_usage(layout.home).free
    if free < FREE_BYTES_NEEDED:
        raise StackError(
            f"The disk of ORDERS_HOME ({layout.home}) has only {free // 2**20} MB free, "
            f"of {FREE_BYTES_NEEDED // 2**20} MB needed; free some space, or set ORDERS_HOME to another disk."
        )


def check_ports(ports: Sequence[ListeningPort]) -> None:
    """Raises StackError when one of the ports is taken, or wanted twice."""
    wanted: dict[int, ListeningPort] = {}
    for port in ports:
        if port.number in wanted:
            other = wanted[port.number]
            raise StackError(
                f"Port {port.number} is wanted by {other.use} ({other.setting}) and by {port.use} "
                f"({port.setting}); set one of them to another port."
            )
        wanted[port.number] = port
    for port in ports:
        _check_port(port)


def _check_port(port: ListeningPort) -> None:
    not_after = time.monotonic() + DYING_SECONDS
    while not _is_free(port):
        taken_by = used_by(port.number)
        # Nobody's: a killed server still listens for a moment when it has no name and no files any more.
        if taken_by or time.monotonic() > not_after:
            raise StackError(
                f"Port {port.number} for {port.use} is taken{taken_by}; "
                f"free it, set {port.setting} to another port, or move all ports at once with PORT_BASE."
            )
        time.sleep(POLL_SECONDS)


def _is_free(port: ListeningPort) -> bool:
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of an earlier stack that linger in TIME_WAIT do not take the port.
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
                    f"BIND_ADDRESS ({port.address}) is no address of this machine; set it to one that is."
                ) from None
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True


def used_by(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status != psutil.CONN_LISTEN or not address or connection.pid is None:
                continue
            if address.port == port:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return ""
