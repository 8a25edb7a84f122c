"""Usage of worker processes."""

import os
import subprocess
import sys
import time

from dashboard.data.worker_usage import read_worker_usage


def test_only_workers_of_this_stack_are_found(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)", "worker", "order", "--name"]
    env = {**os.environ, "ORDERS_STACK_HOME": str(tmp_path)}
    own = subprocess.Popen([*command, "order-worker-7"], env=env)
    foreign = subprocess.Popen([*command, "order-worker-8"], env={**env, "ORDERS_STACK_HOME": "/elsewhere"})
    try:
        not_after = time.monotonic() + 5
        while not (found := read_worker_usage(tmp_path)) and time.monotonic() < not_after:
            time.sleep(0.01)
        assert [usage.name for usage in found] == ["order-worker-7"]
        assert found[0].memory_bytes > 1_000_000
    finally:
        for process in (own, foreign):
            process.kill()
            process.wait()
    assert read_worker_usage(tmp_path) == []
