"""Files that the project writes: a regular file is complete or unchanged, also on a full disk."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk, an exhausted quota and a file that is too large."""

_DESCRIPTOR = re.compile(r"/(?:dev/fd|proc/self/fd)/(\d+)")


def descriptor_of(path: Path) -> int | None:
    """Return the file descriptor of this process that a path such as /dev/fd/3 stands for, or None."""
    named = {"/dev/stdout": 1, "/dev/stderr": 2}
    match = _DESCRIPTOR.fullmatch(str(path))
    return int(match[1]) if match else named.get(str(path))


@contextmanager
def opened(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a file for writing. Raises OSError.

    A regular file is replaced at the end of the block, and unchanged if the block raises. A symbolic link
    stays, and its target is written. Pipes, devices and descriptors (/dev/fd/3) are written directly. `mode`
    is for a new file.
    """
    descriptor = descriptor_of(path)
    if descriptor is not None:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            yield file
        return
    try:
        known = path.stat()
    except FileNotFoundError:
        known = None
    if known is not None and not stat.S_ISREG(known.st_mode):
        with path.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    if known is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    partial = target.with_name(f".{uuid4().hex}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            if known is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(known.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write a whole file as `opened` does; text as UTF-8. Raises OSError."""
    with opened(path, mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)
