"""Backup and restore of the embedded stack: PostgreSQL's data and Temporal's database in one file.

The two copies are of two moments, and the order of the moments matters: Temporal's is taken first. Then the
books are never behind the workflows, only ahead of them, which is what they are after any lost workflow task
as well. A workflow that runs again from the earlier moment finds its steps done in the books, and goes on; an
order that only the books know has lost its workflow, and the reconciler closes it. The other way round,
workflows would have ended of which the books know no outcome.
"""

import os
import platform
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from orchestrator.embedded import postgres, preflight
from orchestrator.embedded.layout import Layout
from orchestrator.embedded.migrations import MIGRATIONS
from orchestrator.embedded.orphans import end_leftovers
from orchestrator.embedded.packaged_programs import packaged_program
from orchestrator.embedded.stack import Report, Stack
from orchestrator.errors import StackError
from orchestrator.operations import backup_archive
from orchestrator.operations.backup_archive import Manifest, Part
from orchestrator.settings import Settings

SQLITE_BUSY_SECONDS = 10.0
SPARE_BYTES = 200 * 1024 * 1024
"""What the disk must have besides the restored data."""

_OF_THE_RUNNING_SERVER = ("postmaster.pid", "postmaster.opts")


@dataclass(frozen=True)
class Restored:
    """`replaced` is where the data that was there before is now; None if there was none."""

    manifest: Manifest
    replaced: Path | None


def back_up(stack: Stack, file: Path, report: Report) -> Manifest:
    """Writes a backup of the stack to `file`, whether it runs or not.

    No `up` or `down` happens meanwhile. Raises StackError when there is nothing to back up, when a server is
    not the embedded one, when `file` exists, or when a copy cannot be made.
    """
    settings, layout = stack.settings, Layout.of(stack.settings)
    _refuse_external(settings, "backup")
    file = file.expanduser().absolute()
    if file.exists():
        raise StackError(f"{file} exists; name another file, or move it away.")
    if not file.parent.is_dir():
        raise StackError(f"There is no directory {file.parent}.")
    if not (layout.postgres_data / "PG_VERSION").exists():
        raise StackError(f"There is nothing to back up in {layout.home}: no stack has run there.")
    try:
        with (
            stack.exclusively(report),
            tempfile.TemporaryDirectory(dir=file.parent, prefix=".backup-") as place,
        ):
            parts_dir = Path(place)
            runs = bool(postgres.servers_on(layout.postgres_data))
            parts = [_copy_temporal(layout, parts_dir)]
            report(f"Temporal's database is copied ({_megabytes(parts[-1].unpacked_bytes)})")
            parts += (_copy_running_postgres if runs else _copy_stopped_postgres)(layout, parts_dir)
            report(f"PostgreSQL's data is copied ({_megabytes(sum(p.unpacked_bytes for p in parts[1:]))})")
            manifest = Manifest(
                made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                made_of="running" if runs else "stopped",
                **_versions(),
                namespace=settings.temporal_namespace,
                order_task_queue=settings.order_task_queue,
                shipping_task_queue=settings.shipping_task_queue,
                parts=parts,
            )
            backup_archive.write(file, manifest, parts_dir)
    except (OSError, sqlite3.Error) as error:
        raise StackError(f"The backup {file} could not be made: {error}.") from error
    return manifest


def restore(stack: Stack, file: Path, *, force: bool, report: Report) -> Restored:
    """Puts the data of a backup in place of an ORDERS_HOME that is empty, or whose data `force` moves aside.

    Everything is checked and unpacked before anything is moved. Raises StackError, and has changed nothing,
    when the file is not a whole backup that this release can use, or when the stack runs.
    """
    settings, layout = stack.settings, Layout.of(stack.settings)
    _refuse_external(settings, "restore")
    file = file.expanduser().absolute()
    manifest = backup_archive.checked(file)
    _check_usable(manifest, file, settings)
    report(f"{file} is whole, made {manifest.made_at}")
    preflight.make_directories(layout)
    with preflight.filesystem_errors(layout), stack.exclusively(report):
        if stack.has_supervisor():
            raise StackError(f"A stack runs in {layout.home}; stop it first: make down.")
        end_leftovers(layout)
        if postgres.servers_on(layout.postgres_data):
            raise StackError(f"A PostgreSQL server still uses {layout.postgres_data}; stop it first.")
        places = (layout.postgres_data, layout.temporal_data)
        existing = [place for place in places if place.exists() and any(place.iterdir())]
        if existing and not force:
            raise StackError(
                f"{layout.home} holds data already; restore into another ORDERS_HOME, "
                "or say --force to move that data aside."
            )
        free = shutil.disk_usage(layout.home).free
        if free < manifest.unpacked_bytes + SPARE_BYTES:
            raise StackError(
                f"The disk of {layout.home} has {_megabytes(free)} free, and the backup needs "
                f"{_megabytes(manifest.unpacked_bytes + SPARE_BYTES)}."
            )
        unpacked = _unpacked(file, manifest, layout)
        report(f"{_megabytes(manifest.unpacked_bytes)} are unpacked")
        replaced = None
        if existing:
            replaced = layout.home / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            replaced.mkdir()
            for place in existing:
                place.rename(replaced / place.name)
        for place, content in zip(places, unpacked, strict=True):
            if place.exists():
                place.rmdir()
            content.rename(place)
    return Restored(manifest, replaced)


def _refuse_external(settings: Settings, command: str) -> None:
    for is_embedded, variable, means in (
        (settings.uses_embedded_postgres, "DATABASE_URL", "pg_dump or pg_basebackup"),
        (settings.uses_embedded_temporal, "TEMPORAL_ADDRESS", "the means of its own database"),
    ):
        if not is_embedded:
            raise StackError(
                f"{command} is for the embedded servers, and {variable} is set; that server has {means}."
            )


def _versions() -> dict[str, str]:
    return {
        "postgres": str(postgres.VERSION),
        "temporal": _temporal_version(),
        "newest_migration": max(path.name for path in MIGRATIONS.glob("*.sql")),
        "machine": platform.machine(),
    }


def _temporal_version() -> str:
    said = subprocess.run([packaged_program("temporal"), "--version"], capture_output=True, text=True).stdout
    words = said.split()
    return words[2] if len(words) > 2 else said.strip()


def _check_usable(manifest: Manifest, file: Path, settings: Settings) -> None:
    """Raises StackError when this release, machine or configuration cannot go on with the data."""
    here = _versions()
    if manifest.postgres != here["postgres"]:
        raise StackError(
            f"The backup {file} was made by PostgreSQL {manifest.postgres}, and this is PostgreSQL "
            f"{here['postgres']}; restore it with the release that made it."
        )
    if manifest.machine != here["machine"]:
        raise StackError(
            f"The backup {file} was made on {manifest.machine}, and this machine is {here['machine']}; "
            "PostgreSQL's files are not the same there."
        )
    if _as_numbers(manifest.temporal) > _as_numbers(here["temporal"]):
        raise StackError(
            f"The backup {file} was made with Temporal {manifest.temporal}, and this is the older "
            f"{here['temporal']}; restore it with the release that made it."
        )
    if manifest.newest_migration > here["newest_migration"]:
        raise StackError(
            f"The backup {file} was made by a newer release of this system ({manifest.newest_migration}); "
            "restore it with that one."
        )
    for name in ("namespace", "order_task_queue", "shipping_task_queue"):
        ours = settings.temporal_namespace if name == "namespace" else getattr(settings, name)
        if getattr(manifest, name) != ours:
            variable = "TEMPORAL_NAMESPACE" if name == "namespace" else name.upper()
            raise StackError(
                f"The workflows of the backup {file} are on {variable}={getattr(manifest, name)}, "
                f"and here it is {ours}; set {variable} as it was."
            )


def _as_numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdecimal()]


def _copy_temporal(layout: Layout, parts_dir: Path) -> Part:
    """One consistent snapshot, taken while the server writes on: in WAL mode readers and writers do not wait
    for each other."""
    copy = parts_dir / "temporal.db"
    source = layout.temporal_data / "temporal.db"
    with (
        closing(
            sqlite3.connect(f"file:{quote(str(source))}?mode=rw", uri=True, timeout=SQLITE_BUSY_SECONDS)
        ) as server,
        closing(sqlite3.connect(copy)) as target,
    ):
        server.backup(target)
    part = backup_archive.compress(copy, parts_dir / backup_archive.TEMPORAL)
    copy.unlink()
    return part


def _copy_running_postgres(layout: Layout, parts_dir: Path) -> list[Part]:
    """The state at the end of the copying, which is after that of Temporal's database."""
    target = parts_dir / "pg"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [
            str(postgres.programs() / "pg_basebackup"),
            *("--host", str(layout.sockets), "--port", "5432", "--username", "postgres", "--no-password"),
            *("--pgdata", str(target), "--format=tar", "--compress=client-gzip:1"),
            *("--wal-method=stream", "--checkpoint=fast"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        raise StackError(
            f"PostgreSQL's data could not be copied: {words[-1] if words else 'no reason given'}."
        )
    unpacked = _bytes_below(layout.postgres_data)
    parts = []
    for name, part_name in (
        ("base.tar.gz", backup_archive.POSTGRES),
        ("pg_wal.tar.gz", backup_archive.POSTGRES_LOG),
    ):
        path = (target / name).rename(parts_dir / part_name)
        parts.append(backup_archive.described(path, unpacked if part_name == backup_archive.POSTGRES else 0))
    return parts


def _bytes_below(directory: Path) -> int:
    """Of all files. They come and go while the server runs."""
    total = 0
    for place, _directories, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).lstat().st_size
    return total


def _copy_stopped_postgres(layout: Layout, parts_dir: Path) -> list[Part]:
    """All files of a server that does not run; after a crash it recovers from them as it would have there."""
    unpacked = 0

    def counted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        nonlocal unpacked
        if Path(entry.name).name in _OF_THE_RUNNING_SERVER:
            return None
        unpacked += entry.size
        return entry

    path = parts_dir / backup_archive.POSTGRES
    with tarfile.open(path, "w:gz", compresslevel=1) as target:
        target.add(layout.postgres_data, arcname=".", filter=counted)
    return [backup_archive.described(path, unpacked)]


def _unpacked(file: Path, manifest: Manifest, layout: Layout) -> tuple[Path, Path]:
    """PostgreSQL's and Temporal's data, whole, beside where they will be. Leaves nothing when it fails."""
    places = tuple(
        place.with_name(place.name + ".restoring") for place in (layout.postgres_data, layout.temporal_data)
    )
    data, temporal = places
    try:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700)
        with (
            backup_archive.part_of(file, backup_archive.TEMPORAL) as packed,
            backup_archive.unpacking(packed) as plain,
            (temporal / "temporal.db").open("wb") as target,
        ):
            shutil.copyfileobj(plain, target, backup_archive.PIECE_BYTES)
        _unpack_tar(file, backup_archive.POSTGRES, data)
        if any(part.name == backup_archive.POSTGRES_LOG for part in manifest.parts):
            _unpack_tar(file, backup_archive.POSTGRES_LOG, data / "pg_wal")
        data.chmod(0o700)
        postgres.give_to_server(data)
        # What is renamed next must be on the disk.
        os.sync()
    except BaseException:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
        raise
    return data, temporal


def _unpack_tar(file: Path, name: str, target: Path) -> None:
    # tarfile's own gunzip reads the first of several gzip members only, and PostgreSQL writes several.
    with (
        backup_archive.part_of(file, name) as packed,
        backup_archive.unpacking(packed) as plain,
        tarfile.open(fileobj=plain, mode="r|") as content,
    ):
        content.extractall(target, filter="data")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
