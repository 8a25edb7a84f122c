"""Planted secrets, and a search for them in everything that tests and their processes write."""

import base64
import os
from pathlib import Path

from orchestrator.security import key_hashing

DATABASE_PASSWORD = "planted-password-of-the-database"
TEMPORAL_API_KEY = "planted-key-of-temporal"
OTLP_TOKEN = "planted-token-of-the-collector"
STRIPE_API_KEY = "sk_test_planted"
GATEWAY_TOKEN = "planted-token-of-the-gateway"
PAYLOAD_KEY = base64.b64encode(b"planted key of 32 bytes, for AES").decode()
API_KEY = key_hashing.new_key()

ENVIRONMENT = {
    "TEMPORAL_API_KEY": TEMPORAL_API_KEY,
    # A key implies TLS otherwise.
    "TEMPORAL_TLS": "false",
    "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{OTLP_TOKEN}",
}
"""Variables of every test process, which its processes inherit."""

planted = {
    DATABASE_PASSWORD,
    TEMPORAL_API_KEY,
    OTLP_TOKEN,
    STRIPE_API_KEY,
    GATEWAY_TOKEN,
    PAYLOAD_KEY,
    API_KEY,
}
"""Includes every API key that this test process has made, and what tests add."""

leaks: list[str] = []
"""What `record` has found since the last report of a test."""

_REDACTED = "[SECRET]"
_MAX_LINE = 160
_STORED_SETTINGS = "running.json"
_DATABASE_SUFFIXES = (".db", ".db-wal", ".db-shm")

_new_key = key_hashing.new_key


def _recorded_key() -> str:
    key = _new_key()
    planted.add(key)
    return key


def record_new_keys() -> None:
    """Record each key that `new_key` returns from now on. Call this before other modules import it."""
    key_hashing.new_key = _recorded_key


def record(place: str, *outputs: str | bytes | None) -> None:
    """Add each secret in these outputs to `leaks`."""
    for output in outputs:
        text = output.decode("latin-1") if isinstance(output, bytes) else output
        leaks.extend(found_in(text or "", place))


def redacted(text: str) -> str:
    for secret in planted:
        text = text.replace(secret, _REDACTED)
    return text


def found_in(text: str, place: str) -> list[str]:
    """Return where a planted secret is in a text: the place and the line, with the secret replaced."""
    found = []
    for secret in planted:
        if secret in text:
            line = next(line for line in text.splitlines() if secret in line)
            found.append(f"{place}: {redacted(line)[:_MAX_LINE]}")
    return found


def found_below(folder: Path) -> list[str]:
    """`found_in` of every file below a folder, except databases and the stored settings of a stack.

    Only the user of the stack may read its stored settings.
    """
    found = []
    for directory, folders, names in os.walk(folder):
        if "PG_VERSION" in names:
            folders.clear()
            continue
        for file in (Path(directory) / name for name in names):
            if file.name == _STORED_SETTINGS or file.suffix in _DATABASE_SUFFIXES or not _is_plain(file):
                continue
            found += found_in(file.read_bytes().decode("latin-1"), str(file.relative_to(folder)))
    return found


def _is_plain(file: Path) -> bool:
    """Exclude sockets, pipes and links."""
    return file.is_file() and not file.is_symlink()
