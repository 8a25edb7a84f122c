"""Disturbances of the local stack, each made by a helper process that continues when the dashboard ends."""

import json
import os
import select
import subprocess
import sys

from dashboard.data.load_test_processes import PROJECT_ROOT
from orchestrator.errors import StackError
from orchestrator.settings import Settings

HELPER_SECONDS = 30.0
"""Time for the answer of the helper process, which takes 1 s to start on an idle machine."""

_helpers: list[subprocess.Popen[str]] = []


def disturb(
    settings: Settings, verb: str, component: str, *, pause_seconds: int = 0, run_id: str | None = None
) -> None:
    """Kill, pause or resume a component. A pause ends after `pause_seconds`.

    Raises StackError if the disturbance was not made.
    """
    # Reap ended helpers, which would otherwise remain as zombies.
    _helpers[:] = [each for each in _helpers if each.poll() is None]
    arguments = [verb, component, f"--pause-seconds={pause_seconds}"]
    helper = subprocess.Popen(
        [sys.executable, "-m", "loadtest.chaos.single_disturbance", *arguments]
        + ([f"--run-id={run_id}"] if run_id else []),
        cwd=PROJECT_ROOT,
        env=os.environ | {"ORDERS_HOME": str(settings.home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        # A signal for the dashboard and its children must not end the helper before it resumes the component.
        start_new_session=True,
    )
    _helpers.append(helper)
    assert helper.stdout is not None, "a pipe"
    with helper.stdout as answer:
        is_ready, _, _ = select.select([answer], [], [], HELPER_SECONDS)
        line = answer.readline() if is_ready else ""
    if not line:
        raise StackError(f"{verb} {component}: the helper process did not respond; see the dashboard's log.")
    if (problem := json.loads(line)) is not None:
        raise StackError(problem)
