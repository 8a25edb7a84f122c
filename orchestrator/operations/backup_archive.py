"""The file of a backup: a tar with a manifest in front, then the parts that it lists.

The manifest says with what the parts were made and what each must hash to, so that a file is known to be
whole and usable before anything is changed.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from orchestrator.errors import StackError

FORMAT = "orders-backup"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_MAX_BYTES = 1_000_000
PIECE_BYTES = 1 << 20

TEMPORAL = "temporal.db.gz"
POSTGRES = "postgres.tar.gz"
POSTGRES_LOG = "postgres-wal.tar.gz"


@dataclass(frozen=True)
class Part:
    """One file of the archive. `unpacked_bytes` is what it takes on the disk once restored."""

    name: str
    bytes: int
    unpacked_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup was made of, and with what."""

    made_at: str
    made_of: str
    """`running` or `stopped`."""

    postgres: str
    temporal: str
    newest_migration: str
    machine: str
    """The processor's architecture: PostgreSQL's files are not the same on another."""

    namespace: str
    order_task_queue: str
    shipping_task_queue: str
    parts: list[Part] = field(default_factory=list)

    @property
    def unpacked_bytes(self) -> int:
        return sum(part.unpacked_bytes for part in self.parts)


def write(file: Path, manifest: Manifest, parts_dir: Path) -> None:
    """Writes the archive under another name first, readable for its owner alone: it holds addresses."""
    partial = file.with_name(file.name + ".partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            with tarfile.open(fileobj=target, mode="w") as archive:
                head = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
                content = json.dumps(head, indent=2).encode()
                entry = tarfile.TarInfo(MANIFEST)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
                for part in manifest.parts:
                    archive.add(parts_dir / part.name, arcname=part.name)
            target.flush()
            os.fsync(target.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def described(path: Path, unpacked_bytes: int) -> Part:
    """The part as its file is now."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Part(path.name, path.stat().st_size, unpacked_bytes, digest)


def compress(source: Path, target: Path) -> Part:
    """Gzips a file, quickly rather than small."""
    with source.open("rb") as plain, gzip.open(target, "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed, PIECE_BYTES)
    return described(target, source.stat().st_size)


def checked(file: Path) -> Manifest:
    """Reads the whole file and returns its manifest. Raises StackError unless every byte is as written."""
    with _readable(file) as archive:
        manifest = _manifest(file, archive)
        for part in manifest.parts:
            entry = archive.next()
            content = None if entry is None else archive.extractfile(entry)
            if entry is None or content is None or entry.name != part.name:
                raise StackError(f"The backup {file} is not whole: {part.name} is missing.")
            if hashlib.file_digest(content, "sha256").hexdigest() != part.sha256:  # type: ignore[arg-type]
                raise StackError(f"The backup {file} is damaged: {part.name} is not what was written.")
    return manifest


@contextmanager
def part_of(file: Path, name: str) -> Iterator[IO[bytes]]:
    """One part, to be read. Raises KeyError when there is none of that name."""
    with _readable(file) as archive:
        content = archive.extractfile(name)
        assert content is not None, "parts are files"
        yield content


def unpacking(packed: IO[bytes]) -> gzip.GzipFile:
    """What a gzipped part holds."""
    return gzip.GzipFile(fileobj=packed)


@contextmanager
def _readable(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, mode="r:") as archive:
            yield archive
    except (tarfile.TarError, EOFError) as error:
        if "unexpected end" in str(error) or isinstance(error, EOFError):
            raise StackError(f"The backup {file} is not whole: it ends too early.") from error
        raise StackError(f"{file} is no backup of this system.") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise StackError(f"The backup {file} cannot be read: {error.strerror}.") from error
        raise


def _manifest(file: Path, archive: tarfile.TarFile) -> Manifest:
    entry = archive.next()
    content = None
    if entry is not None and entry.name == MANIFEST and entry.size <= MANIFEST_MAX_BYTES:
        content = archive.extractfile(entry)
    if content is None:
        raise StackError(f"{file} is no backup of this system.")
    try:
        head = json.loads(content.read())
        if head.pop("format") != FORMAT:
            raise ValueError(head)
        version = head.pop("format_version")
        if version != FORMAT_VERSION:
            raise StackError(
                f"The backup {file} has format {version}, and this release reads format {FORMAT_VERSION}; "
                "restore it with the release that made it."
            )
        parts = [Part(**part) for part in head.pop("parts")]
        return Manifest(**head, parts=parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{file} is no backup of this system.") from error
