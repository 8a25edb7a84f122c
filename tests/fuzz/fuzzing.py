"""Schemathesis over the API's own OpenAPI document, against a stack of its own that is closed by keys."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from db import api_keys
from orchestrator.embedded import Stack
from orchestrator.security.key_hashing import hash_key, new_key
from orchestrator.settings import Settings
from tests.ports import free_port_base

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")

LIMIT_SECONDS = 3.0
"""Held answers end with the outcome: short lives leave time for more of them."""

LONGEST_SECONDS = 1800.0
"""All of it takes six minutes on two cores; what takes so much longer has found something that hangs."""


@dataclass(frozen=True)
class Target:
    """A running API, and a key of role chaos for it."""

    url: str
    key: str


@contextmanager
def target() -> Iterator[Target]:
    home = Path(tempfile.mkdtemp(prefix="orders-fuzz-")).resolve()
    stack = Stack(
        Settings().isolated(
            home,
            port_base=free_port_base(),
            order_workers=1,
            shipping_workers=1,
            auto_review_seconds=0.1,
            order_deadline_seconds=LIMIT_SECONDS,
        )
    )
    try:
        stack.up(bound=True)
        key = new_key()
        assert api_keys.add(stack.settings.order_database_url, hash_key(key), "fuzz", "chaos")
        found = Target(stack.settings.api_url, key)
        _until_closed(found)
        yield found
    finally:
        stack.down()
        shutil.rmtree(home)


def _until_closed(found: Target) -> None:
    while httpx.get(f"{found.url}/whoami", trust_env=False).status_code != httpx.codes.UNAUTHORIZED:
        pass


def fuzz(found: Target, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs Schemathesis; its configuration names the checks. Further words are its own options. Raises
    TimeoutExpired after LONGEST_SECONDS."""
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(CONFIGURATION)),
            *("run", f"{found.url}/openapi.json", "--request-timeout", "70"),
            *("--header", f"Authorization: Bearer {found.key}", "--suppress-health-check", "all"),
            *("--continue-on-failure", "--no-color", "--workers", "1"),
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=LONGEST_SECONDS,
        # Its own database of examples is kept where it runs.
        cwd=tempfile.gettempdir(),
    )
