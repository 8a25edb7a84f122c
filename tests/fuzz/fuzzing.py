"""Runs Schemathesis with the API's OpenAPI document, against a separate stack with an API key."""

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
from tests.stacks import temporary_home

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")

LIMIT_SECONDS = 3.0
"""Short, because long polls last until the outcome."""

MAX_SECONDS = 1800.0
"""A full run takes 6 minutes on two cores. Beyond this time, a request hangs."""


@dataclass(frozen=True)
class Target:
    """A running API, and a key with role chaos."""

    url: str
    key: str


@contextmanager
def target() -> Iterator[Target]:
    with temporary_home("orders-fuzz-") as home:
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
        stack.up(bound=True)
        key = new_key()
        assert api_keys.add(stack.settings.order_database_url, hash_key(key), "fuzz", "chaos")
        api = Target(stack.settings.api_url, key)
        _wait_until_key_required(api)
        yield api


def _wait_until_key_required(api: Target) -> None:
    while httpx.get(f"{api.url}/whoami", trust_env=False).status_code != httpx.codes.UNAUTHORIZED:
        pass


def fuzz(api: Target, *options: str) -> subprocess.CompletedProcess[str]:
    """Run Schemathesis with further options. Raises TimeoutExpired after MAX_SECONDS."""
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(CONFIGURATION)),
            *("run", f"{api.url}/openapi.json", "--request-timeout", "70"),
            *("--header", f"Authorization: Bearer {api.key}", "--suppress-health-check", "all"),
            *("--continue-on-failure", "--no-color", "--workers", "1"),
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=MAX_SECONDS,
        # Schemathesis writes its example database to the working directory.
        cwd=tempfile.gettempdir(),
    )
