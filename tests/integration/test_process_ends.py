"""How the long-running processes end without their servers or with an invalid setting."""

import os
import signal
import subprocess
import sys
import time

import pytest

from orchestrator.embedded.layout import PROJECT_ROOT
from tests import secrets
from tests.load.harness import wait_for_line
from tests.ports import free_port_base

STOP_SECONDS = 10.0


def environment(**changes: str) -> dict[str, str]:
    """An environment whose servers do not exist."""
    unused = free_port_base()
    return {
        **os.environ,
        "PORT_BASE": str(unused),
        "TEMPORAL_ADDRESS": f"127.0.0.1:{unused}",
        "DATABASE_URL": f"postgresql://orders:{secrets.DATABASE_PASSWORD}@127.0.0.1:{unused + 1}/orders",
        **changes,
    }


def test_a_worker_that_waits_for_temporal_stops_on_sigterm() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.processes", "worker", "all"],
        cwd=PROJECT_ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_line(process, containing="waiting for Temporal")
        began = time.monotonic()
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert time.monotonic() - began < STOP_SECONDS
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "words",
    [
        ("orchestrator.processes", "worker", "all"),
        ("orchestrator.processes", "api"),
        ("orchestrator", "worker", "all"),
    ],
)
def test_an_invalid_payload_key_ends_a_process_with_one_line_and_exit_code_2(words: tuple[str, ...]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=PROJECT_ROOT,
        env=environment(PAYLOAD_KEYS="2026-11:c2hvcnQ="),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "PAYLOAD_KEYS: key 2026-11 has 5 bytes instead of 32\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DATABASE_URL", ("orchestrator.processes", "api")),
        ("DATABASE_URL", ("orchestrator", "keys", "list")),
        ("DATABASE_URL", ("loadtest", "run")),
        ("DATABASE_READER_URL", ("dashboard",)),
    ],
)
def test_an_invalid_database_url_ends_a_process_with_one_line_and_exit_code_2(
    name: str, words: tuple[str, ...]
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=PROJECT_ROOT,
        env=environment(**{name: "postgresql://orders:s3cret@7@127.0.0.1/orders"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"{name}: not a database URL")
    assert ended.stderr.count("\n") == 1
    assert "s3cret" not in ended.stderr
