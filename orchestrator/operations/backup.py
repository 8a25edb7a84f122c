"""Back up and restore the embedded stack: PostgreSQL's data and Temporal's database in one file.

The file is a gzip-compressed tar archive: `backup.json`, `temporal.db` (SQLite's online backup) and
`postgres/` (pg_basebackup, or the data directory itself if the server is stopped).

Temporal's database is copied first, so the copy of the order database is never older than that of the
workflows. A newer order database is safe, as after a lost workflow task: a workflow that repeats its last
steps finds them done and continues, and the reconciler closes an order whose workflow is missing. In the
reverse order, workflows could have ended without an outcome in the database.
"""

import gzip
import io
import json
import os
import platform
import sqlite3
import subprocess
import tarfile
import tempfile
import zlib
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from orchestrator import output_file
from orchestrator.embedded import postgres, preflight
from orchestrator.embedded.component import Report
from orchestrator.embedded.layout import Layout, packaged_program
from orchestrator.embedded.migrations import MIGRATIONS
from orchestrator.embedded.orphans import end_orphans
from orchestrator.embedded.stack import Stack
from orchestrator.errors import StackError
from orchestrator.settings import Settings
from orchestrator.settings.environment import server_environment

SQLITE_BUSY_SECONDS = 10.0
CHUNK_BYTES = 1 << 20
INFO_MAX_BYTES = 100_000

_INFO, _TEMPORAL, _POSTGRES = "backup.json", "temporal.db", "postgres"
_LOCK_FILES = ("postmaster.pid", "postmaster.opts")


@dataclass(frozen=True)
class BackupInfo:
    """The content of `backup.json`, which a restore checks first."""

    made_at: str
    stack: str
    """`running` or `stopped`."""

    postgres: str
    temporal: str
    newest_migration: str
    machine: str
    """Processor architecture, on which PostgreSQL's file format depends."""

    namespace: str
    order_task_queue: str
    shipping_task_queue: str


def back_up(stack: Stack, file: Path, report: Report) -> BackupInfo:
    """Write a backup of the running or stopped stack to `file`.

    Needs free disk space in the directory of `file` for an uncompressed copy. `up` and `down` wait for its
    end. Raises StackError if there is no data, a server is external, `file` exists, or a copy fails.
    """
    settings, layout = stack.settings, Layout(stack.settings)
    _refuse_external(settings, "backup")
    if str(file) == "-":
        raise StackError("A backup is a file: name one in place of -.")
    file = file.expanduser().absolute()
    if file.exists():
        raise StackError(f"{file} exists. Choose another file, or remove it.")
    if not file.parent.is_dir():
        raise StackError(f"The directory {file.parent} does not exist.")
    if not (layout.postgres_data / "PG_VERSION").exists():
        raise StackError(f"There is no data to back up in {layout.home}.")
    try:
        with (
            stack.exclusively(report),
            tempfile.TemporaryDirectory(dir=file.parent, prefix=".backup-") as directory,
        ):
            copies = Path(directory)
            is_running = bool(postgres.servers_on(layout.postgres_data))
            info = _info(settings, "running" if is_running else "stopped")
            _copy_temporal(layout, copies / _TEMPORAL)
            report("Temporal's database is copied")
            if is_running:
                _copy_running_postgres(layout, copies / _POSTGRES)
                report("PostgreSQL's data is copied")
            _pack(file, info, copies, copies / _POSTGRES if is_running else layout.postgres_data)
    except (OSError, sqlite3.Error) as error:
        raise StackError(f"The backup {file} could not be made: {error}.") from error
    return info


def restore(stack: Stack, file: Path, *, force: bool, report: Report) -> BackupInfo:
    """Replace the data of a stopped stack by a backup; `force` moves existing data into another directory.

    Unpacks and verifies the backup before it changes anything. Raises StackError if the file is damaged or
    incompatible, if the stack is running, or if there is data and not `force`.
    """
    settings, layout = stack.settings, Layout(stack.settings)
    _refuse_external(settings, "restore")
    _refuse_running(stack)
    layout.home.mkdir(parents=True, exist_ok=True)
    with (
        preflight.filesystem_errors(layout),
        tempfile.TemporaryDirectory(dir=layout.home, prefix=".restore-") as directory,
    ):
        unpacked = Path(directory)
        info = _unpack(file.expanduser().absolute(), unpacked, settings)
        report(f"the backup of {info.made_at} is unpacked and verified")
        preflight.make_directories(layout)
        with stack.exclusively(report):
            _refuse_running(stack)
            end_orphans(layout)
            if postgres.servers_on(layout.postgres_data):
                raise StackError(f"A PostgreSQL server still uses {layout.postgres_data}; stop it first.")
            _set_aside(layout, report, force=force)
            layout.temporal_data.mkdir(mode=0o700)
            (unpacked / _TEMPORAL).rename(layout.temporal_data / _TEMPORAL)
            (unpacked / _POSTGRES).rename(layout.postgres_data)
    return info


def _refuse_external(settings: Settings, command: str) -> None:
    for is_embedded, variable, tool in (
        (settings.uses_embedded_postgres, "DATABASE_URL", "pg_dump or pg_basebackup"),
        (settings.uses_embedded_temporal, "TEMPORAL_ADDRESS", "the backup of that server's database"),
    ):
        if not is_embedded:
            raise StackError(
                f"{command} supports the embedded servers only, and {variable} is set. Use {tool}."
            )


def _refuse_running(stack: Stack) -> None:
    if stack.has_supervisor():
        raise StackError(f"A stack is running in {stack.settings.home}; stop it first: make down.")


# --- Copies -----------------------------------------------------------------------------------------


def _copy_temporal(layout: Layout, target: Path) -> None:
    """Copy a consistent snapshot while the server writes: in WAL mode, readers do not block writers."""
    source = quote(str(layout.temporal_data / _TEMPORAL))
    with (
        closing(sqlite3.connect(f"file:{source}?mode=rw", uri=True, timeout=SQLITE_BUSY_SECONDS)) as server,
        closing(sqlite3.connect(target)) as copy,
    ):
        server.backup(copy)


def _copy_running_postgres(layout: Layout, target: Path) -> None:
    """Copy the data with the WAL up to the end of the copy, which is later than Temporal's snapshot."""
    done = subprocess.run(
        [
            str(postgres.programs() / "pg_basebackup"),
            *("--host", str(layout.sockets), "--port", "5432", "--username", "postgres", "--no-password"),
            *("--pgdata", str(target), "--wal-method=stream", "--checkpoint=fast"),
            # The pg_verifybackup of the package crashes at its start; gzip's checksum covers the files.
            "--no-manifest",
        ],
        env=server_environment(),
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        output = done.stderr.strip().splitlines()
        raise StackError(f"pg_basebackup failed: {output[-1] if output else 'no output'}.")


def _pack(file: Path, info: BackupInfo, copies: Path, postgres_data: Path) -> None:
    content = json.dumps(asdict(info), indent=2).encode()
    entry = tarfile.TarInfo(_INFO)
    entry.size = len(content)
    # Only the owner may read the file: it contains addresses.
    with (
        output_file.opened(file, mode=0o600) as target,
        tarfile.open(fileobj=target, mode="w:gz", compresslevel=1) as archive,
    ):
        archive.addfile(entry, io.BytesIO(content))
        archive.add(copies / _TEMPORAL, arcname=_TEMPORAL)
        archive.add(postgres_data, arcname=_POSTGRES, filter=_without_lock_files)


def _without_lock_files(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(entry.name).name in _LOCK_FILES else entry


# --- Restoring --------------------------------------------------------------------------------------


def _unpack(file: Path, target: Path, settings: Settings) -> BackupInfo:
    """Unpack and verify a backup. Raises StackError if it is damaged or incompatible."""
    try:
        source = file.open("rb")
    except OSError as error:
        raise StackError(f"The backup {file} cannot be read: {error.strerror}.") from error
    try:
        with source, gzip.open(source) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            info = _read_info(archive)
            _check_compatible(info, file, settings)
            while (entry := archive.next()) is not None:
                archive.extract(entry, target, filter="data")
            # gzip compares its checksum at the end of the file, which is after the end of the archive.
            while stream.read(CHUNK_BYTES):
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, TypeError) as error:
        raise StackError(f"{file} is damaged, or not a backup of this system: {error}.") from error
    (target / _POSTGRES).chmod(0o700)
    postgres.give_to_server(target / _POSTGRES)
    # The data must be on the disk before it is renamed.
    os.sync()
    return info


def _read_info(archive: tarfile.TarFile) -> BackupInfo:
    entry = archive.next()
    if entry is None or entry.name != _INFO or entry.size > INFO_MAX_BYTES:
        raise ValueError(f"{_INFO} is missing")
    content = archive.extractfile(entry)
    assert content is not None, "the entry is a file"
    return BackupInfo(**json.loads(content.read()))


def _set_aside(layout: Layout, report: Report, *, force: bool) -> None:
    """Move existing data into a new directory."""
    existing = [path for path in (layout.postgres_data, layout.temporal_data) if path.exists()]
    if not any(any(path.iterdir()) for path in existing):
        for path in existing:
            path.rmdir()
        return
    if not force:
        raise StackError(
            f"{layout.home} already contains data. Restore into another ORDERS_HOME, or use --force to move "
            "that data into another directory."
        )
    replaced = layout.home / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    replaced.mkdir()
    for path in existing:
        path.rename(replaced / path.name)
    report(f"the previous data is in {replaced}")


# --- Compatibility ----------------------------------------------------------------------------------


def _info(settings: Settings, stack: str) -> BackupInfo:
    version = subprocess.run([packaged_program("temporal"), "--version"], capture_output=True, text=True)
    return BackupInfo(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        stack=stack,
        postgres=str(postgres.VERSION),
        # "temporal version 1.9.1 (Server 1.32.0, UI 2.52.1)"
        temporal=version.stdout.split()[2],
        newest_migration=max(path.name for path in MIGRATIONS.glob("*.sql")),
        machine=platform.machine(),
        namespace=settings.temporal_namespace,
        order_task_queue=settings.order_task_queue,
        shipping_task_queue=settings.shipping_task_queue,
    )


def _check_compatible(info: BackupInfo, file: Path, settings: Settings) -> None:
    """Raises StackError if this release, machine or configuration cannot use the data."""
    here = _info(settings, info.stack)
    reason = None
    if info.postgres != here.postgres:
        reason = f"PostgreSQL {info.postgres}; this release has PostgreSQL {here.postgres}"
    elif info.machine != here.machine:
        reason = f"a {info.machine} processor; this machine has {here.machine}"
    elif _numbers(info.temporal) > _numbers(here.temporal):
        reason = f"Temporal {info.temporal}; this release has {here.temporal}"
    elif info.newest_migration > here.newest_migration:
        reason = f"a newer release (migration {info.newest_migration})"
    if reason is not None:
        raise StackError(f"{file} was made with {reason}. Restore it with the release that made it.")
    for field, variable in (
        ("namespace", "TEMPORAL_NAMESPACE"),
        ("order_task_queue", "ORDER_TASK_QUEUE"),
        ("shipping_task_queue", "SHIPPING_TASK_QUEUE"),
    ):
        needed, present = getattr(info, field), getattr(here, field)
        if needed != present:
            raise StackError(f"The workflows of {file} need {variable}={needed}; it is {present}.")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]
