"""The master's view of its workers: late messages, and workers that are silent."""

import subprocess
import sys
import textwrap

import pytest

from tests.load.harness import ROOT

SETUP = """
from types import SimpleNamespace
from locust.runners import STATE_RUNNING
from loadtest.generator import generators
from loadtest.generator.recording import Report
from loadtest.options import RunOptions

workers = {name: SimpleNamespace(id=name, state=STATE_RUNNING) for name in ("one", "two")}
clients = SimpleNamespace(all=workers.values(), get=workers.get)
nothing = lambda *_, **__: None
events = SimpleNamespace(worker_report=SimpleNamespace(add_listener=nothing))
sent = []
runner = SimpleNamespace(
    clients=clients,
    environment=SimpleNamespace(events=events),
    register_message=nothing,
    send_message=lambda name, data, client_id: sent.append((name, client_id)),
)
master = generators.DistributedGenerators(runner)

def ready(*names):
    for name in names:
        master._on_worker_report(name, {"accepts_runs": True, "stats": []})

def begin(run_id):
    ready("one", "two")
    options = RunOptions.parse({"run_id": run_id, "rate": 1, "duration": "1s"})
    master.begin(options, "http://127.0.0.1", None)

def report(worker, run_id, offered, drained=False):
    wire = Report(0, offered, 0, 0, 0, 0.0, 0.0, {}, [], [], drained=drained).to_wire()
    message = SimpleNamespace(node_id=worker, data={"run_id": run_id, "report": wire})
    master._on_report(None, message)
"""

CASES = {
    "a late report of an earlier run": """
        begin("first")
        begin("second")
        report("one", "first", offered=40, drained=True)
        assert (master.tally.offered, master.is_drained, master.lost) == (0, False, 0)
        report("one", "second", offered=1)
        assert master.tally.offered == 1
    """,
    "a worker that is connected but handles no messages yet": """
        from orchestrator.errors import UsageError
        master._on_worker_report("one", {"stats": []})
        try:
            master.wait_for_workers(1, 0.2, nothing)
        except UsageError as error:
            assert str(error).startswith("0 of 1 workers connected within 0.2 s.")
        else:
            raise AssertionError("a worker without a handler would drop the start of the run")
        ready("one")
        master.wait_for_workers(1, 0.2, nothing)
        options = RunOptions.parse({"run_id": "first", "rate": 1, "duration": "1s"})
        master.begin(options, "http://127.0.0.1", None)
        assert (sent, master.size) == ([("orders_begin", "one")], 1)
    """,
    "a worker that sends no report": """
        generators.FIRST_REPORT_SECONDS = -1.0
        begin("first")
        report("one", "first", offered=1, drained=True)
        assert (master.is_drained, master.lost) == (True, 1)
        assert master.failures == ["no report within -1 s"]
    """,
    "a worker that fails after others": """
        begin("first")
        report("one", "first", offered=1, drained=True)
        error = SimpleNamespace(node_id="two", data={"run_id": "first", "error": "ValueError: x"})
        master._on_failure(None, error)
        master._on_failure(None, SimpleNamespace(node_id="two", data={"run_id": "earlier", "error": "y"}))
        assert (master.is_drained, master.lost, master.failures) == (True, 1, ["ValueError: x"])
    """,
}


@pytest.mark.parametrize("name", CASES)
def test_the_master_handles(name: str) -> None:
    # In a process of its own, which Locust patches for gevent.
    script = SETUP + textwrap.dedent(CASES[name])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
