"""Load tests on a whole stack: each has exactly one right exit code, even if a server restarts."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from orchestrator.embedded import Stack
from orchestrator.errors import ExitCode
from tests.load.harness import ROOT, end, wait_for
from tests.stacks import stack_settings, temporary_home, without_clients

pytestmark = [pytest.mark.stack, pytest.mark.proof, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with temporary_home("orders-runs-") as home:
        # Two workers of each kind: a kill leaves one.
        settings = stack_settings(home).model_copy(update={"order_workers": 2, "shipping_workers": 2})
        stack = without_clients(settings)
        stack.up()
        yield stack


def start(stack: Stack, run_id: str, *options: str) -> subprocess.Popen[str]:
    """Start a run. Orders that the API of a busy machine rejects do not count."""
    settings = stack.settings
    return subprocess.Popen(
        [sys.executable, "-m", "loadtest", "run", "--exclude-rejected", f"--run-id={run_id}", *options],
        cwd=ROOT,
        env=os.environ | {"ORDERS_HOME": str(settings.home), "PORT_BASE": str(settings.port_base)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(stack: Stack, run_id: str, process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """Return exit code and verdict.json of a run."""
    output, _ = process.communicate(timeout=180)
    file = stack.settings.home / "reports" / run_id / "verdict.json"
    assert file.exists(), output
    report = json.loads(file.read_text())
    assert "Traceback" not in output
    assert report["run"]["problems"] == [], output
    return process.returncode, report


def test_a_minute_of_mixed_orders_under_the_assignment_faults_passes(stack: Stack) -> None:
    options = ("--scenario=mixed", "--rate=3", "--duration=60s", "--faults=assignment")
    # On a busy machine some orders are late, never half of them.
    process = start(stack, "real", *options, "--slo-target=0.5", "--chaos=30s kill order-worker")
    code, report = finished(stack, "real", process)

    assert code == ExitCode.PASSED, report["limit"]
    assert report["run"]["offered"] == 180
    accepted = 180 - report["run"]["rejected"]
    assert report["run"]["unaccounted"] == 0
    assert report["database"]["clean"]
    assert report["database"]["finished"] == accepted
    assert report["outcomes"]["completed"] > accepted / 2
    assert report["disturbances"][0]["target"] == "order-worker-1"
    assert report["disturbances"][0]["problem"] is None
    # The order database has the same times, and the scenario of each order.
    with urllib.request.urlopen(f"{stack.settings.api_url}/latency?run_id=real") as response:
        latency = json.load(response)
    assert latency["count"] == accepted
    assert latency["late"] == report["limit"]["late"]
    assert latency["completion_ms"]["p99"] == report["times"]["completion_ms"]["p99"]
    header, *rows = (stack.settings.home / "reports" / "real" / "orders.csv").read_text().splitlines()
    assert header.startswith("order_id,run_id,scenario,outcome,reason,requested_at,accepted_at,finished_at")
    assert len(rows) == 180
    assert rows[0].split(",")[1:3] == ["real", "mixed"]


SHORT = ("--scenario=start-only", "--rate=2", "--duration=5s")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The simulated reviewer approves after 2 s.
        (("--slo-seconds=1", "--slo-target=0.9"), ExitCode.LIMIT_BREACHED),
        # Not even 10 orders on time prove it; a late one of 10 does not breach it either.
        (("--slo-target=0.99",), ExitCode.NOT_PROVEN),
    ],
)
def test_a_short_run(stack: Stack, options: tuple[str, ...], expected: ExitCode) -> None:
    run_id = expected.name.lower().replace("_", "-")
    code, report = finished(stack, run_id, start(stack, run_id, *SHORT, *options))
    assert code == expected, report["limit"]
    assert report["run"]["offered"] == 10
    assert report["limit"]["late"] == (
        report["limit"]["orders"] if expected is ExitCode.LIMIT_BREACHED else 0
    )


@pytest.mark.parametrize("server", ["api", "postgres"])
def test_a_server_that_restarts_during_a_run_does_not_change_its_verdict(stack: Stack, server: str) -> None:
    run_id = f"restarted-{server}"
    options = ("--scenario=start-only", "--rate=5", "--duration=20s", "--slo-target=0.5")
    process = start(stack, run_id, *options)
    try:
        wait_for(lambda: accepted_orders(stack, run_id) >= 20)
        before = {each.name: each.pid for each in stack.processes()}
        if server == "api":
            stack.kill("api")
        else:
            stack.restart("postgres")
        stack.wait_until_healthy([server])
        after = {each.name: each.pid for each in stack.processes()}
        assert process.poll() is None, "the run ended before the restart"
        code, report = finished(stack, run_id, process)
    finally:
        end(process)

    assert after[server] != before[server]
    assert code == ExitCode.PASSED, report
    assert report["run"]["offered"] == 100
    assert report["run"]["unaccounted"] == 0
    if server == "api":
        # Orders are accepted without PostgreSQL.
        assert report["run"]["start_retries"] > 0, "the run did not meet the restart"
    assert report["database"]["clean"]
    assert report["database"]["finished"] == 100 - report["run"]["rejected"] == accepted_orders(stack, run_id)


def accepted_orders(stack: Stack, run_id: str) -> int:
    with psycopg.connect(stack.settings.order_database_url) as connection:
        row = connection.execute("select count(*) from orders where run_id = %s", (run_id,)).fetchone()
    assert row is not None
    return int(row[0])
