"""Secrets that a test planted, and a search for them in everything that the test and its processes wrote."""

import sys
from pathlib import Path

from orchestrator.security import key_hashing

_MAX_LINE = 160

planted: set[str] = set()
"""Every API key that this test process has made, and what tests add."""

_new_key = key_hashing.new_key


def _recorded_key() -> str:
    key = _new_key()
    planted.add(key)
    return key


def record_new_keys() -> None:
    """Record each key that `new_key` returns from now on. Call this before other modules import it."""
    key_hashing.new_key = _recorded_key


def found_in(text: str, place: str) -> list[str]:
    """Return where a planted secret is in a text: the place and the line, with the secret replaced."""
    found = []
    for secret in planted:
        if secret in text:
            line = next(line for line in text.splitlines() if secret in line)
            found.append(f"{place}: {line.replace(secret, '[SECRET]')[:_MAX_LINE]}")
    return found


def found_below(folder: Path) -> list[str]:
    """`found_in` of every file below a folder, except the stored settings of a stack, which only its user may
    read."""
    found = []
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.name != "running.json":
            found += found_in(file.read_bytes().decode("latin-1"), str(file.relative_to(folder)))
    return found


def require_none_below(folder: Path) -> None:
    """Fail if a file below the folder has a planted secret, unless another error is being handled."""
    found = found_below(folder) if planted and sys.exc_info()[0] is None else []
    assert not found, found
