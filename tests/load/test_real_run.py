"""The real thing: a whole stack, a minute of everything at once, under the faults of the assignment."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.embedded import Stack
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
    # 300 orders prove 98 % with one of them late.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtest", "run", "--scenario=mixed", "--rate=5", "--duration=60s"),
            *("--faults=assignment", "--slo-target=0.98", "--run-id=real", "--chaos=30s kill order-worker"),
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        | {"ORDERS_HOME": str(home), "PORT_BASE": str(stack.settings.port_base)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((home / "reports" / "real" / "verdict.json").read_text())
    assert told["run"]["offered"] == 300
    assert told["run"]["unaccounted"] == 0
    assert told["database"]["clean"]
    assert told["database"]["judged"] == 300
    assert told["outcomes"]["completed"] > 200
    assert told["disturbances"][0]["target"] == "order-worker-1"
    assert told["disturbances"][0]["problem"] is None
    # The books know the same times, and whose orders they are.
    with urllib.request.urlopen(f"{stack.settings.api_url}/latency?run_id=real") as answer:
        database = json.load(answer)
    assert database["count"] == 300
    assert database["late"] == told["limit"]["late"]
    assert database["completion_ms"]["p99"] == told["times"]["completion_ms"]["p99"]
    header, *rows = (home / "reports" / "real" / "orders.csv").read_text().splitlines()
    assert header.startswith("order_id,run_id,scenario,outcome,reason,requested_at,accepted_at,finished_at")
    assert len(rows) == 300
    assert rows[0].split(",")[1:3] == ["real", "mixed"]
