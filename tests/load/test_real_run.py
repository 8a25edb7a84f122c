"""One minute of the mixed scenario on a whole stack, under the assignment faults and with a killed worker."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.embedded import Stack
from orchestrator.errors import ExitCode
from orchestrator.settings import Settings
from tests.load.harness import ROOT
from tests.ports import free_port_base

pytestmark = [pytest.mark.stack, pytest.mark.proof, pytest.mark.timeout(400)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(Settings(orders_home=tmp_path / "home", port_base=free_port_base(), database_url=None))
    stack.up()
    yield stack
    stack.down()


def test_a_minute_of_mixed_orders_under_the_assignment_faults(stack: Stack) -> None:
    home = stack.settings.home
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest", "run", "--scenario=mixed", "--rate=3", "--duration=60s"),
            "--exclude-rejected",
            *("--faults=assignment", "--slo-target=0.9", "--run-id=real", "--chaos=30s kill order-worker"),
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        | {"ORDERS_HOME": str(home), "PORT_BASE": str(stack.settings.port_base)},
        capture_output=True,
        text=True,
        check=False,
    )

    # How many orders are on time depends on the load of the machine; the API rejects some on a busy one.
    results = {ExitCode.PASSED, ExitCode.LIMIT_BREACHED, ExitCode.NOT_PROVEN}
    assert done.returncode in results, done.stdout + done.stderr
    report = json.loads((home / "reports" / "real" / "verdict.json").read_text())
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
    header, *rows = (home / "reports" / "real" / "orders.csv").read_text().splitlines()
    assert header.startswith("order_id,run_id,scenario,outcome,reason,requested_at,accepted_at,finished_at")
    assert len(rows) == 180
    assert rows[0].split(",")[1:3] == ["real", "mixed"]
