"""Makes the disturbances of a run at their times, and records the result of each.

A helper process (`loadtest.chaos.stack_control`) controls the stack. The process of the load test is patched
by gevent and has a schedule to keep, so it cannot wait for components to start.
"""

import json
import subprocess
import sys
import time
from urllib.parse import urlsplit

import gevent
import gevent.event
import gevent.lock

from loadtest.chaos.disturbance import ENDED_BY, PlannedDisturbance, UnavailableComponents, assign_components
from loadtest.options import RunOptions
from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.errors import UsageError
from orchestrator.rest_client import Json
from orchestrator.settings import LOOPBACK

HELPER_SECONDS = 180.0
"""Time for a disturbance, and for the end of the helper process: a component has 120 s to become healthy."""


class DisturbanceRunner:
    """The disturbances of one run."""

    def __init__(self, options: RunOptions, api_url: str) -> None:
        self._options = options
        self._api_url = api_url
        self._helper: subprocess.Popen[str] | None = None
        self._plan: list[PlannedDisturbance] = []
        self._done: list[Json] = []
        self._running: gevent.Greenlet[..., None] | None = None
        self._is_idle = gevent.event.Event()
        self._ending = gevent.lock.RLock()
        self._unavailable = UnavailableComponents()
        self._began = 0.0

    def prepare(self) -> None:
        """Start the helper before the run, so that the first disturbance is on time.

        Raises UsageError if no stack of this ORDERS_HOME is running, if the load test uses another API, and
        for an unknown component.
        """
        if not self._options.chaos:
            return
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "loadtest.chaos.stack_control"],
            cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            components, api_urls = json.loads(self._read() or "[[], []]")
            if not components:
                raise UsageError("chaos: no stack of this ORDERS_HOME is running.")
            if _endpoint(self._api_url) not in map(_endpoint, api_urls):
                raise UsageError(
                    "chaos: disturbances are only possible on the stack of this ORDERS_HOME, with its API at "
                    f"{api_urls[0]}; this load test uses {self._api_url}."
                )
            self._plan = assign_components(self._options.chaos, components)
        except UsageError:
            self.finish()
            raise

    def begin(self) -> None:
        """Start the clock of the run."""
        self._is_idle.set()
        self._began = time.monotonic()
        if self._plan:
            self._running = gevent.spawn(self._run)

    def end(self) -> None:
        """Cancel further disturbances, wait for a running one, and start stopped and paused components."""
        with self._ending:
            if self._running is not None:
                self._is_idle.wait(HELPER_SECONDS)
                self._running.kill()
                self._running = None
            # An earlier call may have been interrupted here.
            for component, verb in list(self._unavailable.items()):
                now = round(time.monotonic() - self._began, 3)
                self._disturb(PlannedDisturbance(now, ENDED_BY[verb], component))
                # If the start failed, the helper process retries it when it ends.
                self._unavailable.pop(component, None)

    def finish(self) -> list[Json]:
        """End and return the disturbances in order: planned, actual and completion time, and the result."""
        self.end()
        if self._helper is not None:
            try:
                # Closes the input, which ends the helper.
                self._helper.communicate(timeout=HELPER_SECONDS)
            except subprocess.TimeoutExpired:
                self._helper.kill()
                self._helper.communicate()
            self._helper = None
        return self._done

    def _run(self) -> None:
        for disturbance in self._plan:
            gevent.sleep(max(self._began + disturbance.at_seconds - time.monotonic(), 0.0))
            self._is_idle.clear()
            try:
                self._disturb(disturbance)
            finally:
                self._is_idle.set()

    def _disturb(self, disturbance: PlannedDisturbance) -> None:
        at = time.monotonic() - self._began
        response = self._send([disturbance.verb, disturbance.target, self._options.run_id])
        problem = json.loads(response) if response else "no response from the helper process"
        if problem is None:
            self._unavailable.update_after(disturbance.verb, disturbance.target)
        self._done.append(
            {
                "planned_seconds": disturbance.at_seconds,
                "at_seconds": round(at, 3),
                "done_seconds": round(time.monotonic() - self._began, 3),
                "verb": disturbance.verb,
                "target": disturbance.target,
                "problem": problem,
            }
        )

    def _send(self, command: list[str]) -> str:
        assert self._helper is not None, "prepared"
        assert self._helper.stdin is not None, "a pipe"
        try:
            self._helper.stdin.write(json.dumps(command) + "\n")
            self._helper.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._read()

    def _read(self) -> str:
        assert self._helper is not None, "prepared"
        assert self._helper.stdout is not None, "a pipe"
        line: str = gevent.with_timeout(HELPER_SECONDS, self._helper.stdout.readline, timeout_value="")
        return line


def _endpoint(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return LOOPBACK if parts.hostname == "localhost" else parts.hostname, parts.port or 80
