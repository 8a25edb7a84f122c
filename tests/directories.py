"""Temporary directories for servers."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import secrets


@contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """Yield a directory with a short name, which sockets need. At its end it is searched for secrets."""
    directory = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    try:
        yield directory
    finally:
        secrets.leaks += [f"{prefix}: {found}" for found in secrets.found_below(directory)]
        shutil.rmtree(directory)
