"""Disturbances carried out on the running stack, through its supervisor, each one kept with its time.

A helper process carries them out, started before the first order: the generator's own process is patched
for greenlets and has a schedule to keep, neither of which agrees with waiting for components to come back.
"""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import gevent
import gevent.event
import gevent.lock

from db import disturbances
from loadtest.chaos.disturbance import Disturbance
from loadtest.options import RunOptions
from loadtest.preflight import ROOT
from orchestrator.embedded import Stack
from orchestrator.errors import DatabaseError, OrderSystemError, UsageError
from orchestrator.settings import LOOPBACK, Settings

Json = dict[str, Any]

_BROUGHT_BACK_BY = {"pause": "resume", "stop": "start"}
"""What takes a component away, and what brings it back."""

_SIGNALS = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP, "resume": signal.SIGCONT}
LAST_ANSWER_SECONDS = 60.0
KEEP_SECONDS = 20.0


class DisturbanceRunner:
    """The disturbances of one run."""

    def __init__(self, options: RunOptions, api_url: str) -> None:
        self._planned = options.chaos
        self._api_url = api_url
        self._run_id = options.run_id
        self._helper: subprocess.Popen[str] | None = None
        self._plan: list[tuple[Disturbance, str]] = []
        self._told: list[Json] = []
        self._carrying_out: gevent.Greenlet[..., None] | None = None
        self._is_idle = gevent.event.Event()
        self._ending = gevent.lock.RLock()
        self._away: dict[str, str] = {}
        self._began = 0.0

    def prepare(self) -> None:
        """Starts the helper, so that the first disturbance is on time.

        Raises UsageError when there is no stack of ours, it is not the one that is tested, or there is no
        such component in it.
        """
        if not self._planned:
            return
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "loadtest.chaos.runner"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            names, api_urls = json.loads(self._answer() or "[[], []]")
            if not names:
                raise UsageError("chaos: no stack of this ORDERS_HOME is running to be disturbed")
            if _place(self._api_url) not in map(_place, api_urls):
                raise UsageError(
                    f"chaos: {self._api_url} is tested, and what could be disturbed is the stack of this "
                    f"ORDERS_HOME, with its API at {api_urls[0]}"
                )
            self._plan = with_components(self._planned, names)
        except UsageError:
            self.finish()
            raise

    def begin(self) -> None:
        """The run's zero is now."""
        self._is_idle.set()
        self._began = time.monotonic()
        if self._plan:
            self._carrying_out = gevent.spawn(self._carry_out)

    def end(self) -> None:
        """No further disturbance begins. One that is under way is waited for, and what it or an earlier one
        has taken away comes back now, whether it was to come back later or not at all."""
        with self._ending:
            if self._carrying_out is None:
                return
            self._is_idle.wait(LAST_ANSWER_SECONDS)
            self._carrying_out.kill()
            self._carrying_out = None
            for component, verb in list(self._away.items()):
                now = round(time.monotonic() - self._began, 3)
                self._carry_out_one(Disturbance(now, _BROUGHT_BACK_BY[verb], component), component)

    def finish(self) -> list[Json]:
        """What was done, in order: planned and actual time in seconds, verb, target, and how it went."""
        self.end()
        if self._helper is not None and self._helper.stdin is not None:
            self._helper.stdin.close()
            try:
                self._helper.wait(timeout=LAST_ANSWER_SECONDS)
            except subprocess.TimeoutExpired:
                self._helper.kill()
                self._helper.wait()
            if self._helper.stdout is not None:
                self._helper.stdout.close()
            self._helper = None
        return self._told

    def _carry_out(self) -> None:
        for disturbance, component in self._plan:
            gevent.sleep(max(self._began + disturbance.at_seconds - time.monotonic(), 0.0))
            self._is_idle.clear()
            self._carry_out_one(disturbance, component)
            self._is_idle.set()

    def _carry_out_one(self, disturbance: Disturbance, component: str) -> None:
        at = time.monotonic() - self._began
        answer = self._ask([disturbance.verb, component, self._run_id])
        problem = json.loads(answer) if answer else "the helper has ended"
        if problem is None:
            _note_away(self._away, disturbance.verb, component)
        self._told.append(
            {
                "planned_seconds": disturbance.at_seconds,
                "at_seconds": round(at, 3),
                "done_seconds": round(time.monotonic() - self._began, 3),
                "verb": disturbance.verb,
                "target": component,
                "problem": problem,
            }
        )

    def _ask(self, question: list[str]) -> str:
        assert self._helper is not None, "prepared"
        assert self._helper.stdin is not None, "a pipe"
        try:
            self._helper.stdin.write(json.dumps(question) + "\n")
            self._helper.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._answer()

    def _answer(self) -> str:
        assert self._helper is not None, "prepared"
        assert self._helper.stdout is not None, "a pipe"
        return self._helper.stdout.readline()


def with_components(planned: tuple[Disturbance, ...], names: list[str]) -> list[tuple[Disturbance, str]]:
    """Each disturbance with the component it hits: `order-worker` takes those that are there in turn, and
    what brings back takes the one that has been away longest."""
    turns: Counter[str] = Counter()
    away: dict[str, str] = {}
    found = []
    for disturbance in planned:
        target = disturbance.target
        of_kind = [name for name in names if name == target or name.removeprefix(f"{target}-").isdecimal()]
        if not of_kind:
            raise UsageError(f"chaos: there is no component {target}; there are: {', '.join(names)}")
        waiting = [name for name, verb in away.items() if _BROUGHT_BACK_BY[verb] == disturbance.verb]
        component = next((name for name in waiting if name in of_kind), None)
        if component is None:
            there = [name for name in of_kind if name not in away] or of_kind
            component = there[turns[target] % len(there)]
            turns[target] += 1
        found.append((disturbance, component))
        _note_away(away, disturbance.verb, component)
    return found


def _note_away(away: dict[str, str], verb: str, component: str) -> None:
    """Keeps what is away, and by which verb, in the order in which it went."""
    if verb in _BROUGHT_BACK_BY:
        away.pop(component, None)
        away[component] = verb
        return
    taken_by = away.get(component)
    # One that was frozen and is killed, the supervisor starts again, and that one runs.
    comes_back_by = {"pause": ("resume", "restart", "kill"), "stop": ("start", "restart")}
    if taken_by is not None and verb in comes_back_by[taken_by]:
        del away[component]


def _place(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return LOOPBACK if parts.hostname == "localhost" else parts.hostname, parts.port or 80


def _help() -> None:
    """Tells the components of the running stack and the addresses of its API. Then reads one disturbance a
    line, carries it out, keeps it for the charts, and answers null or what went wrong."""
    settings = Settings.load()
    stack = Stack(settings)
    running = stack.running_settings()
    own = [f"http://{address}:{running.port('api')}" for address in (LOOPBACK, running.bind_address)]
    _tell([[component.name for component in stack.components()], [*own, running.api_url]])
    for line in sys.stdin:
        verb, component, run_id = json.loads(line)
        problem, at = None, datetime.now(UTC)
        try:
            if verb in _SIGNALS:
                stack.kill(component, _SIGNALS[verb])
            else:
                {"restart": stack.restart, "stop": stack.stop, "start": stack.start}[verb](component)
        except OrderSystemError as error:
            problem = str(error)
        else:
            # Beside the schedule: PostgreSQL may be what was hit.
            Thread(target=_keep, args=(settings.order_database_url, at, verb, component, run_id)).start()
        _tell(problem)


def _keep(url: str, at: datetime, verb: str, component: str, run_id: str) -> None:
    # When the books stay away, the verdict has it all the same.
    with suppress(DatabaseError):
        disturbances.record(
            url, at=at, action=verb, component=component, run_id=run_id, time_budget_seconds=KEEP_SECONDS
        )


def _tell(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # Ctrl-C is for the generator, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _help()
